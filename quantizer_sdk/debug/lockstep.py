"""Runs a float graph and its quantized form side by side, op by op, and frees what neither needs any more.

A third run goes along: the quantized graph in which every layer is given the float graph's values of its inputs
(teacher forcing, Williams and Zipser 1989), so that what comes out is wrong by what this layer does alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from quantizer_sdk.control_flow import ControlFlow, form_of
from quantizer_sdk.debug.joint_control_flow import run_jointly
from quantizer_sdk.debug.points import Point, find_points
from quantizer_sdk.debug.tally import Tally
from quantizer_sdk.debug.twins import Twins, find_twins
from quantizer_sdk.operands import argument, is_written

__all__ = ["Lockstep", "Watch"]


@dataclass(slots=True)
class Watch:
    """What a run is asked for and what it found out.

    Attributes:
        blame: Whether each layer's own error is measured.
        look: Called with a point's path and name, the point, and the float graph's value; None for nobody.
        tallies: By path and point.
        unlike: Paths and names of points whose values have other shapes in the two graphs.
        parted: Paths of control flow where the two models took different ways in some run.
    """

    blame: bool = True
    look: Callable[[str, Point, torch.Tensor], None] | None = None
    tallies: dict[tuple[str, Point], Tally] = field(default_factory=dict)
    unlike: dict[str, str] = field(default_factory=dict)
    parted: set[str] = field(default_factory=set)


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
        if (node.op == "get_attr" or _writes_state(node)) and node in self.twins.calls:
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
        return _Run(self, quantized_inputs is not None, watch, given or {}).all_steps(inputs, quantized_inputs)


class _Run:
    """The values that are alive in one run.

    Attributes:
        float_values: Those of the float graph.
        kept: The same, as they were before later ops wrote into them.
        values: Those of the quantized graph; those of constants even when it is not run.
        forced: Those of the quantized graph whose layers are given the float graph's values.
    """

    def __init__(self, pair: Lockstep, active: bool, watch: Watch, given: Mapping[Node, torch.Tensor]) -> None:
        self._pair, self._active, self._watch, self._given = pair, active, watch, given
        self.float_values: dict[Node, Any] = {}
        self.kept: dict[Node, Any] = {}
        self.values: dict[Node, Any] = {}
        self.forced: dict[Node, Any] = {}

    def all_steps(self, inputs: Sequence[Any], quantized_inputs: Sequence[Any] | None) -> tuple[Any, Any]:
        pair = self._pair
        theirs, ours, forced = iter(inputs), iter(quantized_inputs or ()), iter(inputs)
        result, quantized_result = None, None
        for step in pair._steps:
            float_node, node = step.float_node, step.node
            if float_node is not None and node is not None:
                self._joint(float_node, node)
            elif float_node is not None:
                if float_node.op == "placeholder":
                    self._keep(float_node, self._input(float_node, next(theirs)))
                elif float_node.op == "output":
                    result = map_arg(float_node.args[0], self.float_values.__getitem__)
                else:
                    self._keep(float_node, _compute(pair.reference, float_node, self.float_values.__getitem__))
            elif node is not None and node.op == "placeholder":
                if self._active:
                    self.values[node] = self._input(node, next(ours))
                if self._watch.blame:
                    self.forced[node] = self._input(node, next(forced))
                self._at_point(node)
            elif node is not None and node.op == "output":
                if self._active:
                    quantized_result = map_arg(node.args[0], self.values.__getitem__)
            elif node is not None:
                self._quantized(node)
            for it in step.free_float:
                self.float_values.pop(it, None)
                self.kept.pop(it, None)
            for it in step.free:
                self.values.pop(it, None)
                self.forced.pop(it, None)
        return result, quantized_result

    def _input(self, node: Node, value: Any) -> Any:
        return value.clone() if node in self._pair._written else value

    def _keep(self, node: Node, value: Any) -> None:
        self.float_values[node] = value
        changes = node in self._pair._written and node.op != "get_attr" and isinstance(value, torch.Tensor)
        self.kept[node] = value.clone() if changes else value

    def _quantized(self, node: Node) -> None:
        pair = self._pair
        if node in pair.found.constants:
            self.values[node] = _compute(pair.quantized, node, self.values.__getitem__)
            return
        if self._active:
            self.values[node] = self._value(node, self.values.__getitem__)
        if self._watch.blame:
            self.forced[node] = self._forced_value(node)
        self._at_point(node)

    def _value(self, node: Node, read: Callable[[Node], Any]) -> Any:
        """Run one op; a rounding at once, so that its second half has nothing left to do."""
        pair = self._pair
        rounding = pair._round.get(node)
        if rounding is not None:
            return rounding(read(node.args[0]), read)  # type: ignore[arg-type]  # a node
        if node in pair._widening and node.all_input_nodes[0] in pair._round:
            value = read(node.all_input_nodes[0])
            return value.clone() if node in pair._written else value
        return _compute(pair.quantized, node, read)

    def _forced_value(self, node: Node) -> Any:
        pair = self._pair
        if node in pair._exact:
            return self.kept[pair.twins.values[node]]
        if node.op == "get_attr" or _writes_state(node):  # state is the float graph's, and written once
            twin = pair.twins.calls.get(node)
            if twin is not None:
                return self.float_values[twin]
            return _compute(pair.quantized, node, self._read_forced) if node.op == "get_attr" else None
        if node in pair.found.idle:
            return self._read_forced(node.all_input_nodes[0])
        return self._value(node, self._read_forced)

    def _read_forced(self, node: Node) -> Any:
        return self.values[node] if node in self._pair.found.constants else self.forced[node]

    def _at_point(self, node: Node) -> None:
        """Compare at a point, and go on from the float graph's value there."""
        pair, watch = self._pair, self._watch
        point = pair.points.get(node)
        if point is None:
            return
        expected = self.kept[point.twin]
        actual = self._given.get(node) if self._given else self.values.get(node)
        forced = self.forced.get(node)
        if not isinstance(expected, torch.Tensor) or not expected.is_floating_point():
            return
        if point.value in pair.twins.reshaped:
            like = next((it for it in (actual, forced) if isinstance(it, torch.Tensor)), expected)
            expected = expected.reshape(like.shape) if expected.numel() == like.numel() else expected
        shapes = {tuple(it.shape) for it in (actual, forced) if isinstance(it, torch.Tensor)}
        if shapes - {tuple(expected.shape)}:
            watch.unlike[name_of(pair.path, point.layer)] = f"{tuple(expected.shape)} became {shapes.pop()}"
            return
        tally = watch.tallies.setdefault((pair.path, point), Tally())
        if isinstance(actual, torch.Tensor):
            scale = None if point.rounding is None else point.rounding.scale(self._scale_value)
            tally.add(expected, actual, scale)
        if watch.look is not None:
            watch.look(pair.path, point, expected)
        if watch.blame:
            tally.add_own(expected, None if point.exact else forced)
            changes = point.value in pair._written or any(user in pair._written for user in node.users)
            self.forced[node] = expected.clone() if changes else expected
            if point.value is not node and point.value in self.forced:
                self.forced[point.value] = self.forced[node]

    def _scale_value(self, node: Node) -> Any:
        return self.values[node] if node in self.values else self.forced[node]

    def _joint(self, float_node: Node, node: Node) -> None:
        """Run a call of control flow of both graphs."""
        form, pairs = self._pair.inner[node]
        arguments = map_arg(float_node.args, self._operand)
        ours = map_arg(node.args, self._quantized_operand) if self._active else None
        parted: list[bool] = []

        def run(index: int, inputs: Sequence[Any], others: Sequence[Any] | None) -> tuple[Any, Any]:
            return pairs[index].run(inputs, others, self._watch)

        def alone(index: int, inputs: Sequence[Any]) -> Any:
            return pairs[index].quantized(*inputs)

        result, quantized_result = run_jointly(form, run, alone, arguments, ours, parted)
        if parted:
            self._watch.parted.add(name_of(self._pair.path, node))
        self._keep(float_node, result)
        if self._active:
            self.values[node] = quantized_result
        if self._watch.blame:
            self.forced[node] = result

    def _operand(self, node: Node) -> Any:
        return self.float_values.get(node)

    def _quantized_operand(self, node: Node) -> Any:
        return self.values.get(node)


def name_of(path: str, node: Node) -> str:
    """Name a node by the path of its graph and its own name, as `explain` does."""
    return f"{path}/{node.name}" if path else node.name


def _compute(model: GraphModule, node: Node, read: Callable[[Node], Any]) -> Any:
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        return getattr(model.get_submodule(path), name)
    args, kwargs = map_arg((node.args, dict(node.kwargs)), read)
    if node.op == "call_module":
        return model.get_submodule(str(node.target))(*args, **kwargs)
    assert node.op == "call_function"
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _writes_state(node: Node) -> bool:
    """Whether an op writes in place into what outlives a run: a buffer, or an input."""
    if not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable):
        return False
    while (viewed := _viewed(node)) is not None:
        node = viewed
    return node.op in {"get_attr", "placeholder"}


def _viewed(node: Node) -> Node | None:
    """Return the operand whose memory an op's result is; None where it has its own."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    names = [item.name for item in node.target._schema.arguments if item.alias_info is not None]
    values = [argument(node, name) for name in names]
    return next((it for it in values if isinstance(it, Node)), None)
