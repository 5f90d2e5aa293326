"""One run of a pair of graphs: the values that are alive, and what is found out about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from quantizer_sdk.debug.joint_control_flow import run_jointly
from quantizer_sdk.debug.points import Point
from quantizer_sdk.debug.tally import Tally
from quantizer_sdk.operands import writes_state
from quantizer_sdk.provenance import name_in

if TYPE_CHECKING:
    from quantizer_sdk.debug.lockstep import Lockstep

__all__ = ["Run", "Watch"]


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


class Run:
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
        """Run both graphs, as `Lockstep.run` says."""
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
        if node.op == "get_attr" or writes_state(node):  # state is the float graph's, and written once
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
            watch.unlike[name_in(pair.path, point.layer.name)] = f"{tuple(expected.shape)} became {shapes.pop()}"
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
            self._watch.parted.add(name_in(self._pair.path, node.name))
        self._keep(float_node, result)
        if self._active:
            self.values[node] = quantized_result
        if self._watch.blame:
            self.forced[node] = result

    def _operand(self, node: Node) -> Any:
        return self.float_values.get(node)

    def _quantized_operand(self, node: Node) -> Any:
        return self.values.get(node)


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
