"""Hold annotations, whoever wrote them, to the rows of a table and their checks: the very ones that `annotate` uses.

An annotation is read backwards: what config would make a row annotate these nodes so? If the row and its checks accept
that config, the annotation is one that the table itself could have made.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from torch.fx import GraphModule, Node

from quantizer_sdk.foreign import annotation_of
from quantizer_sdk.match import Match, follow, is_constant, operands_fit
from quantizer_sdk.plan import Plan, build_plan
from quantizer_sdk.provenance import describe, op_name
from quantizer_sdk.spec import (
    PER_CHANNEL_SCHEMES,
    DerivedQuantizationSpec,
    EdgeOrNode,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    RoundedQuantizationSpec,
    granularity_of,
)
from quantizer_sdk.table import Operand, ProductBiasSpec, QuantizationConfig, Role, Row

__all__ = ["table_violations"]


def table_violations(model: GraphModule, rows: Iterable[Row]) -> list[str]:
    """Return what is annotated but no row computes, one entry an op or pattern, with every reason against it.

    An op without a row that has a spec for nothing but constants, such as an embedding, is left to whoever wants it.

    Args:
        model: The annotated graph.
        rows: In order of priority.

    Raises:
        InvalidAnnotationError: An annotation does not fit the graph at all; see `build_plan`.
        SharingError: Shared specs lead nowhere.
    """
    by_target: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        for target in row.steps[0].targets:
            by_target[target].append(row)
    judge = _Judge(model)
    seen: set[Node] = set()
    found = []
    for node in model.graph.nodes:
        if node.op != "call_function" or node in seen or not judge.is_quantized(node):
            continue
        candidates = list(judge.candidates(node, by_target.get(node.target, ())))
        if not candidates:
            if judge.reads_quantized(node):
                found.append(f"{describe(node)} is annotated, and no row of the table is for {op_name(node)}")
            continue
        refused = {match: list(dict.fromkeys(judge.reasons(match))) for match in candidates}
        match = next((match for match, reasons in refused.items() if not reasons), candidates[0])
        seen.update(match.nodes)
        if refused[match]:
            alike = [other for other in candidates if other.nodes == match.nodes]
            found.append(f"{describe(node)} {_words(alike, refused)}")
    return found


def _words(matches: list[Match], refused: dict[Match, list[str]]) -> str:
    """Say what each row has against the same nodes, every reason once, beginning with the row that comes nearest."""
    told: set[str] = set()
    words = []
    for match in sorted(matches, key=lambda match: len(refused[match])):
        fresh = [reason for reason in refused[match] if reason not in told]
        told.update(fresh)
        if fresh:
            words.append(f"as {match.row.name}: {'; '.join(fresh)}")
    return ", ".join(words)


class _Judge:
    """Reads the annotations of one graph."""

    def __init__(self, model: GraphModule) -> None:
        self._annotations = {node: annotation_of(node) for node in model.graph.nodes}
        self._plan: Plan = build_plan(model)

    def is_quantized(self, node: Node) -> bool:
        """Whether an annotation asks for anything at a node, beyond marking it as part of a pattern."""
        annotation = self._annotations[node]
        if annotation is None:
            return False
        return any(spec is not None for spec in (*annotation.input_qspec_map.values(), annotation.output_qspec))

    def reads_quantized(self, node: Node) -> bool:
        """Whether an annotation has specs for more than a node's constants."""
        annotation = self._annotations[node] or QuantizationAnnotation()
        inputs = [source for source, spec in annotation.input_qspec_map.items() if spec is not None]
        return annotation.output_qspec is not None or not all(is_constant(source) for source in inputs)

    def candidates(self, first: Node, rows: Iterable[Row]) -> Iterator[Match]:
        """Yield the patterns that the annotation may mean: inside them nothing is annotated as a result."""
        for row in rows:
            nodes = follow(row, first, set())
            if nodes is None or any(self._annotations[node] is None for node in nodes):
                continue
            if all(node not in self._plan.group_of for node in nodes[:-1]):
                match = Match(row, nodes, QuantizationConfig(None, None, None))
                yield dataclasses.replace(match, config=self._config(match))

    def reasons(self, match: Match) -> Iterator[str]:
        """Yield all that the row has against being annotated so."""
        if match.row.share:
            yield from self._unshared(match)
        for config in self._configs(match):
            judged = dataclasses.replace(match, config=config)
            for check in (operands_fit, *match.row.checks):
                reason = check(judged)
                if reason is not None:
                    yield reason
        for node, name, operand, value in match.operands():
            spec = self._spec(value, node)
            wanted = operand.spec(match.config)
            if spec is None or wanted is None or operand.role is Role.BIAS:
                continue
            if granularity_of(spec) != granularity_of(wanted):
                yield f"operand {name!r} has {granularity_of(spec)}; the kernel takes {granularity_of(wanted)}"

    def _unshared(self, match: Match) -> Iterator[str]:
        """Say where an op that only moves codes has other qparams for one tensor than for another."""
        edges: list[EdgeOrNode] = [
            (value, node) for node, _name, _operand, value in match.operands() if isinstance(value, Node)
        ]
        points = [*edges, match.output]
        groups = [self._plan.groups[self._plan.group_of[it]] if it in self._plan.group_of else None for it in points]
        fixed = {group.spec for group in groups if group is not None}
        if None in groups:
            yield "it only moves codes, and not all of its operands and its result have a spec"
        elif len({id(group) for group in groups}) > 1 and not (
            len(fixed) == 1 and isinstance(next(iter(fixed)), FixedQParamsQuantizationSpec)
        ):
            yield "it only moves codes, and its operands and its result have qparams of their own; share one point's"

    def _config(self, match: Match) -> QuantizationConfig:
        """Return the config whose roles are as the first operand of each is annotated."""
        found: dict[Role, QuantizationSpecBase | None] = {}
        for node, _name, operand, value in match.operands():
            found.setdefault(operand.role, _as_configured(operand, self._spec(value, node)))
        output = self._spec(match.output, None)
        return QuantizationConfig(found.get(Role.ACT), output, found.get(Role.WEIGHT), found.get(Role.BIAS))

    def _configs(self, match: Match) -> Iterator[QuantizationConfig]:
        """Yield that config, and one for each other spec that an activation has."""
        yield match.config
        seen = [match.config.input_activation]
        for node, _name, operand, value in match.operands():
            spec = self._spec(value, node)
            if operand.role is Role.ACT and spec not in seen:
                seen.append(spec)
                yield dataclasses.replace(match.config, input_activation=spec)

    def _spec(self, source: Any, reader: Node | None) -> QuantizationSpecBase | None:
        """Return the spec that rules what a node reads: the edge's, else its producer's."""
        for point in ((source, reader), source):
            index = self._plan.group_of.get(point)  # type: ignore[arg-type]  # numbers are at no point
            if index is not None:
                return self._plan.groups[index].spec
        return None


def _as_configured(operand: Operand, spec: QuantizationSpecBase | None) -> QuantizationSpecBase | None:
    """Return what a config holds for an operand to be given this spec: the inverse of `Operand.spec`."""
    if operand.role is Role.BIAS and isinstance(spec, DerivedQuantizationSpec):
        return ProductBiasSpec(spec.dtype, keep_float=isinstance(spec, RoundedQuantizationSpec))
    if (
        isinstance(spec, QuantizationSpec)
        and spec.qscheme in PER_CHANNEL_SCHEMES
        and operand.ch_axis is not None
        and spec.ch_axis == operand.ch_axis
    ):
        return dataclasses.replace(spec, ch_axis=0)
    return spec
