"""Which values of two graphs are compared, and what belongs to the layer behind each.

A layer ends where a value is rounded, or where a float op's result is there for others to read; what is fused into one
kernel is one layer. Each rounding belongs to one layer alone: that of the op whose result it rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants, constant_nodes
from quantizer_sdk.control_flow import form_of
from quantizer_sdk.debug.rounding import Rounding, roundings_of
from quantizer_sdk.debug.twins import Twins, is_rounding
from quantizer_sdk.debug.unused_bits import unused_weight_bits
from quantizer_sdk.decision import DECISION_KEY, decision_of
from quantizer_sdk.passes.insert_observers import moves
from quantizer_sdk.provenance import value_of
from quantizer_sdk.qdq import is_dequantize

__all__ = ["Point", "Points", "find_points"]

_ATEN = torch.ops.aten
_ACTIVATIONS = frozenset(
    (
        *(_ATEN.relu, _ATEN.relu_, _ATEN.relu6, _ATEN.relu6_, _ATEN.hardtanh, _ATEN.hardtanh_, _ATEN.clamp),
        *(_ATEN.clamp_, _ATEN.add, _ATEN.add_),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value that both graphs compute, and the layer that ends there.

    Attributes:
        value: The node of the quantized graph that computes it.
        twin: That of the float graph.
        rounding: Its own rounding; None where it stays float.
        layer: The op that the layer is named after: the one with weights, or the last.
        members: All ops of the layer, in the graph's order; not those that only move elements.
        exact: Whether nothing in it is rounded or has other constants than in the float graph.
        unused_weight_bits: How many bits of its weights' codes nobody uses.
    """

    value: Node
    twin: Node
    rounding: Rounding | None
    layer: Node
    members: tuple[Node, ...]
    exact: bool
    unused_weight_bits: float

    @property
    def carrier(self) -> Node:
        """The node whose result the readers see."""
        return self.value if self.rounding is None else self.rounding.narrow


@dataclass(frozen=True, slots=True)
class Points:
    """What `find_points` finds out about a pair of graphs.

    Attributes:
        points: In the graph's order.
        roundings: All roundings of activations, by their first half.
        idle: Those halves that round what is rounded to the very same codes already.
        constants: The nodes of the quantized graph of one value in all runs.
        alone: Rounded values that the float graph does not have.
    """

    points: tuple[Point, ...]
    roundings: dict[Node, Rounding]
    idle: frozenset[Node]
    constants: set[Node]
    alone: tuple[Node, ...]


def find_points(reference: GraphModule, quantized: GraphModule, twins: Twins) -> Points:
    """Return the points of a pair of graphs, not those of the graphs inside them."""
    constants = constant_nodes(quantized.graph)
    nodes = [node for node in quantized.graph.nodes if node not in constants]
    roundings_at = {node: roundings_of(node) for node in nodes if not is_rounding(node)}
    idle = _idle(nodes, roundings_at)
    fused = _fused(nodes, constants, roundings_at)
    own: dict[Node, Rounding | None] = {}
    alone = []
    for node in nodes:
        if node.op not in {"call_function", "placeholder"} or is_rounding(node) or form_of(node) is not None:
            continue
        first = next((it for it in roundings_at[node] if it.narrow not in idle), None)
        twin = twins.values.get(node)
        if twin is None or twin.op == "get_attr" or not _is_float(twin):
            if first is not None:
                alone.append(node)
            continue
        if first is not None:
            own[node] = first
        elif (node.all_input_nodes and _is_float(node) and not moves(node) and node not in fused) and not roundings_at[
            node
        ]:
            own[node] = None
    equal = _equal_constants(reference, quantized, twins, constants)
    ends = set(own) | {it.narrow for it in own.values() if it is not None}
    rounded, stored = ends | idle, Constants(quantized)
    points, named = [], set()
    for node, rounding in own.items():
        reached = list(_reached(node, ends))
        members = sorted(it for it in reached if _is_member(it, constants))
        layer = _layer(node, members, constants)
        layer = node if layer in named else layer
        named.add(layer)
        exact = rounding is None and all(_is_same(it, twins, equal, rounded) for it in reached)
        point = Point(
            value=node,
            twin=twins.values[node],
            rounding=rounding,
            layer=layer,
            members=tuple(members) or (node,),
            exact=exact,
            unused_weight_bits=unused_weight_bits(stored, reached),
        )
        points.append(point)
    by_narrow = {it.narrow: it for found in roundings_at.values() for it in found}
    return Points(tuple(points), by_narrow, frozenset(idle), constants, tuple(alone))


def _idle(nodes: list[Node], roundings_at: dict[Node, list[Rounding]]) -> set[Node]:
    """Return the quantizes of what was rounded to the very same codes and only moved since."""
    grid: dict[Node, Any] = {}  # by node, the key of what its values are rounded to
    idle: set[Node] = set()
    for node in nodes:
        if is_dequantize(node):
            grid[node] = grid.get(node.all_input_nodes[0])
            continue
        if moves(node) or node.target in {_ATEN.relu.default, _ATEN.relu_.default}:
            keys = [grid.get(operand) for operand in node.all_input_nodes]
            grid[node] = keys[0] if keys and all(key == keys[0] for key in keys) else None
        for rounding in roundings_at.get(node, ()):
            if grid.get(node) is not None and grid[node] == rounding.key:
                idle.add(rounding.narrow)
            grid[rounding.narrow] = rounding.key
    return idle


def _fused(nodes: list[Node], constants: set[Node], roundings_at: dict[Node, list[Rounding]]) -> set[Node]:
    """Return the ops whose result stays inside a kernel.

    The quantizer left word of it. Where nobody did, as in a graph that was saved and loaded, a layer of rounded weights
    is fused with the clamp or the sum that alone reads it and is rounded.
    """
    if any(DECISION_KEY in node.meta for node in nodes):
        return {node for node in nodes if decision_of(node).fused_into is not None and len(node.users) == 1}
    found = set()
    for node in nodes:
        reader, *others = node.users or [node]
        kind: object = getattr(reader.target, "overloadpacket", None)
        closed = kind in _ACTIVATIONS and not others and bool(roundings_at.get(reader))
        if closed and _has_rounded_weight(node, constants):
            found.add(node)
    return found


def _is_float(node: Node) -> bool:
    value = value_of(node)
    return value is None or (isinstance(value, torch.Tensor) and value.is_floating_point())


def _reached(node: Node, ends: set[Node]) -> Iterator[Node]:
    """Yield a node and what it is computed from, back to where other layers end."""
    seen: set[Node] = {node}
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        for operand in current.all_input_nodes:
            if operand not in seen and operand not in ends:
                seen.add(operand)
                stack.append(operand)


def _is_member(node: Node, constants: set[Node]) -> bool:
    return (
        node.op == "call_function"
        and node not in constants
        and not is_rounding(node)
        and not moves(node)
        and isinstance(node.target, torch._ops.OpOverload)
        and _is_float(node)
    )


def _has_rounded_weight(node: Node, constants: set[Node]) -> bool:
    return any(is_dequantize(operand) and operand in constants for operand in node.all_input_nodes)


def _layer(node: Node, members: list[Node], constants: set[Node]) -> Node:
    weighted = [it for it in members if _has_rounded_weight(it, constants)]
    claimed = [it for it in members if decision_of(it).fused_into == node.name]
    return weighted[-1] if weighted else claimed[0] if claimed else node


def _equal_constants(reference: GraphModule, quantized: GraphModule, twins: Twins, constants: set[Node]) -> set[Node]:
    """Return the get_attr nodes that read the same numbers as the float graph does there."""
    float_constants, quantized_constants = Constants(reference), Constants(quantized)
    found = set()
    for node in constants:
        twin = twins.values.get(node) or twins.calls.get(node)
        if node.op != "get_attr" or twin is None or twin.op != "get_attr":
            continue
        if not quantized_constants.is_tensor(node) or not float_constants.is_tensor(twin):
            continue
        ours, theirs = quantized_constants.read(node), float_constants.read(twin)
        if ours is theirs or (ours.dtype == theirs.dtype and torch.equal(ours, theirs)):
            found.add(node)
    return found


def _is_same(node: Node, twins: Twins, equal: set[Node], rounded: set[Node]) -> bool:
    """Whether a node computes what its twin does, of the same; what other layers round is taken for the same."""
    if is_rounding(node):
        return node in rounded or node.all_input_nodes[0] in rounded
    if node.op == "get_attr":
        return node in equal
    return node.op == "placeholder" or (node in twins.calls and twins.values.get(node) is twins.calls[node])
