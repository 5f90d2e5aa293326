"""The quantized tensors of a model's ops as the graph has them now, and what is suspicious about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.decision import RECORD_KEY
from quantizer_sdk.operands import tensor_operands
from quantizer_sdk.passes.insert_observers import moves
from quantizer_sdk.provenance import module_path, name_in, op_name, source_line
from quantizer_sdk.report.findings import Suspicion, nearly_agree, suspicions, swamped
from quantizer_sdk.report.held_tensors import HeldTensors
from quantizer_sdk.report.ops import is_op
from quantizer_sdk.report.points import Point, Points
from quantizer_sdk.report.records import Finding, TensorRecord

__all__ = ["Live"]


class Live:
    """What a prepared or converted model says of its tensors.

    Args:
        model: A graph of any stage.
        held: Its constant tensors.

    Attributes:
        tensors: Those of each op, by (name in the report, overload).
        findings: What is suspicious, in graph order.
        points: How many points there are.
        unseen: How many of them have an observer that has seen no data.
    """

    def __init__(self, model: GraphModule, held: HeldTensors) -> None:
        self._told: set[tuple[str, int]] = set()
        self.tensors: dict[tuple[str, str], tuple[TensorRecord, ...]] = {}
        self.findings: list[Finding] = []
        self.points = self.unseen = 0
        self._held, self._points = held, Points(held)
        for path, graph in graphs_of(model):
            self._points.enter(graph)
            for node in graph.graph.nodes:
                if is_op(node):
                    self._add(node, path)

    def _add(self, node: Node, path: str) -> None:
        name = node.meta.get(RECORD_KEY) or name_in(path, node.name)
        found = list(self._of(node))
        key = (name, op_name(node))
        if not found or key in self.tensors:
            return
        self.tensors[key] = tuple(_record(role, point, self._points.origin(point.tensor)) for role, point in found)
        self.points += len(found)
        self.unseen += sum(_has_seen_nothing(point) for _role, point in found)
        for role, point in found:
            for each in suspicions(node, role, point, self._held):
                # One observer may watch several points; the Seen is one for all of them.
                told = (each.kind, id(point.tensor if point.seen is None else point.seen))
                if told not in self._told:
                    self._told.add(told)
                    self._report(node, name, each)
        self._compare(node, name, [point for role, point in found if role != "output"])
        for each in swamped(node, found):
            self._report(node, name, each)

    def _of(self, node: Node) -> Iterator[tuple[str, Point]]:
        if isinstance(node.target, torch._ops.OpOverload):
            for name, values in tensor_operands(node):
                for value in values:
                    point = self._points.read(value) if isinstance(value, Node) else None
                    if point is not None:
                        yield name, point
        point = self._points.written(node)
        if point is not None:
            yield "output", point

    def _compare(self, node: Node, name: str, operands: list[Point]) -> None:
        """Report operands that are quantized anew although their tensor was, with nearly the same qparams."""
        for point in operands:
            before = self._before(point)
            if before is None or not nearly_agree(before, point) or _equal(before, point):
                continue  # equal ones are shared: codes stay what they are
            words = f"with scale {float(point.scale):.4g} in place of {float(before.scale):.4g}"  # type: ignore[arg-type]
            twice = Suspicion(
                "requantized",
                f"its operand from {self._points.origin(point.tensor).name} is quantized twice, then {words}",
                "share the qparams (SharedQuantizationSpec, or a row with share=True for what lies between)",
            )
            self._report(node, name, twice)

    def _before(self, point: Point) -> Point | None:
        """Return the point whose values a point quantizes anew, directly or moved about."""
        node = point.tensor
        if point.dynamic or point.derived:
            return None
        if self._points.read(node) is not None:
            return self._points.read(node)
        steps = 0
        while _moves_one(node) and steps < 8:  # chains are short; a bound keeps this O(nodes)
            node, steps = node.all_input_nodes[0], steps + 1
            if (before := self._points.read(node)) is not None:
                return before
        return None

    def _report(self, node: Node, name: str, found: Suspicion) -> None:
        words = {"kind": found.kind, "message": found.message, "advice": found.advice}
        self.findings.append(Finding(node=name, module=module_path(node), source=source_line(node), **words))


def _has_seen_nothing(point: Point) -> bool:
    return (
        point.observed
        and not point.dynamic
        and not point.derived
        and point.granularity != "cast"
        and point.scale is None
    )


def _moves_one(node: Node) -> bool:
    if len(node.all_input_nodes) != 1:
        return False
    return moves(node)


def _equal(one: Point, other: Point) -> bool:
    pairs = ((one.scale, other.scale), (one.zero_point, other.zero_point))
    return all(float(a) == float(b) for a, b in pairs if a is not None and b is not None)


def _record(role: str, point: Point, origin: Node) -> TensorRecord:
    seen = point.seen
    fields: dict[str, Any] = {}
    if seen is not None and seen.low is not None and seen.high is not None:
        fields["calibrated"] = (float(seen.low.min()), float(seen.high.max()))
    if point.scale is not None and point.zero_point is not None:
        fields["scales"] = point.scale.numel()
        fields["scale"] = (float(point.scale.min()), float(point.scale.max()))
        fields["zero_point"] = (int(point.zero_point.min()), int(point.zero_point.max()))
        if point.quant_min is not None and point.quant_max is not None:
            low, high = ((code - point.zero_point) * point.scale for code in (point.quant_min, point.quant_max))
            fields["range"] = (float(low.min()), float(high.max()))
    return TensorRecord(
        role=role,
        node=origin.name,
        dtype=str(point.dtype).removeprefix("torch."),
        quant_min=point.quant_min,
        quant_max=point.quant_max,
        granularity=point.granularity,
        clipped=None if seen is None else seen.clipped,
        observer=None if seen is None or not seen.observer else seen.observer,
        dynamic=point.dynamic,
        **fields,
    )
