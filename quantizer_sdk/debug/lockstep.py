"""Runs a float graph and its quantized form side by side, op by op, and frees what neither needs any more.

A third run goes along: the quantized graph in which every layer is given the float graph's values of its inputs
(teacher forcing, Williams and Zipser 1989), so that what comes out is wrong by what this layer does alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.control_flow import ControlFlow, form_of
from quantizer_sdk.debug.lockstep_run import Run, Watch
from quantizer_sdk.debug.points import Point, find_points
from quantizer_sdk.debug.twins import Twins, find_twins
from quantizer_sdk.operands import is_written, writes_state

__all__ = ["Lockstep"]


@dataclass(frozen=True, slots=True)
class _Step:
    """One op of the float graph, or of the quantized one, or a call of control flow of both; and what is freed then."""

    float_node: Node | None
    node: Node | None
    free_float: tuple[Node, ...] = ()
    free: tuple[Node, ...] = ()


class Lockstep:
    """A pair of graphs, ready to be run together.

    Args:
        reference: The float graph. Both may be changed by the ops in them that write into buffers.
        quantized: The converted graph.
        path: Where in the model they are; "" for the models themselves.
    """

    def __init__(self, reference: GraphModule, quantized: GraphModule, path: str = "") -> None:
        self.reference, self.quantized, self.path = reference, quantized, path
        self.twins: Twins = find_twins(reference, quantized)
        self.found = find_points(reference, quantized, self.twins)
        self.points: dict[Node, Point] = {point.carrier: point for point in self.found.points}
        self._round = {narrow: it.function() for narrow, it in self.found.roundings.items()}
        self._widening = {user for narrow in self._round for user in narrow.users}
        self._parents = {point.value: point for point in self.found.points if point.rounding is not None}
        self._exact = {point.value for point in self.found.points if point.exact}
        self._written = {
            node
            for graph in (reference.graph, quantized.graph)
            for node in graph.nodes
            if node.op != "output" and is_written(node)
        }
        order = self._order()
        self.inner: dict[Node, tuple[ControlFlow, tuple[Lockstep, ...]]] = {}
        for float_node, node in order:
            if float_node is not None and node is not None:
                self.inner[node] = self._pair(float_node, node)
        self._steps = self._freeing(order)

    def all_pairs(self) -> list[Lockstep]:
        """Return this pair and those of the graphs inside, outer ones first."""
        found = [self]
        for _form, pairs in self.inner.values():
            for pair in pairs:
                found += pair.all_pairs()
        return found

    def _pair(self, float_node: Node, node: Node) -> tuple[ControlFlow, tuple[Lockstep, ...]]:
        form = form_of(node)
        assert form is not None
        pairs = []
        for theirs, ours in zip(form.graph_nodes(float_node), form.graph_nodes(node), strict=True):
            path = f"{self.path}.{ours.target}" if self.path else str(ours.target)
            first, second = (
                model.get_submodule(str(it.target)) for model, it in ((self.reference, theirs), (self.quantized, ours))
            )
            assert isinstance(first, GraphModule)
            assert isinstance(second, GraphModule)
            pairs.append(Lockstep(first, second, path))
        return form, tuple(pairs)

    def _order(self) -> list[tuple[Node | None, Node | None]]:
        """Return in which order the ops of both graphs are run: the float graph never further than it has to be."""
        floats = list(self.reference.graph.nodes)
        place = {node: index for index, node in enumerate(floats)}
        order: list[tuple[Node | None, Node | None]] = []
        done = 0
        for node in self.quantized.graph.nodes:
            twin = self.twins.calls.get(node)
            joint = form_of(node) is not None and twin is not None and place[twin] >= done
            needed = place[twin] if joint and twin is not None else self._last_needed(node, place) + 1
            order += [(it, None) for it in floats[done:needed]]
            done = max(done, needed)
            if joint:
                order.append((twin, node))
                done += 1
            else:
                order.append((None, node))
        return [*order, *((node, None) for node in floats[done:])]

    def _last_needed(self, node: Node, place: Mapping[Node, int]) -> int:
        return max((place[it] for it in self._float_reads(node)), default=-1)

    def _float_reads(self, node: Node) -> list[Node]:
        """Return whose values of the float graph are looked at when a node of the quantized one runs."""
        found = []
        if node in self.points:
            found.append(self.points[node].twin)
        if (node.op == "get_attr" or writes_state(node)) and node in self.twins.calls:
            found.append(self.twins.calls[node])
        return found

    def _freeing(self, order: Sequence[tuple[Node | None, Node | None]]) -> list[_Step]:
        last_float: dict[Node, int] = {}
        last: dict[Node, int] = {}
        for index, (float_node, node) in enumerate(order):
            if float_node is not None:
                last_float[float_node] = index
                last_float.update(dict.fromkeys(float_node.all_input_nodes, index))
            if node is not None:
                last[node] = index
                last.update(dict.fromkeys(node.all_input_nodes, index))
                last_float.update(dict.fromkeys(self._float_reads(node), index))
        free_float: list[list[Node]] = [[] for _ in order]
        free: list[list[Node]] = [[] for _ in order]
        for found, lists in ((last_float, free_float), (last, free)):
            for node, index in found.items():
                if node.op != "output":
                    lists[index].append(node)
        return [
            _Step(*pair, tuple(theirs), tuple(ours)) for pair, theirs, ours in zip(order, free_float, free, strict=True)
        ]

    def run(
        self,
        inputs: Sequence[Any],
        quantized_inputs: Sequence[Any] | None,
        watch: Watch,
        given: Mapping[Node, torch.Tensor] | None = None,
    ) -> tuple[Any, Any]:
        """Run both graphs.

        Args:
            inputs: One value for each placeholder of the float graph.
            quantized_inputs: The same of the quantized graph; None runs it for the layers' own errors only.
            watch: Takes the figures.
            given: By carriers, values that something else has computed, to compare instead of this graph's own.

        Returns:
            What both return, as their output nodes have it; None for a graph that did not run.
        """
        return Run(self, quantized_inputs is not None, watch, given or {}).all_steps(inputs, quantized_inputs)
