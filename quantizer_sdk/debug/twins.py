"""Which value of the float graph each value of its quantized form stands for.

Names alone do not tell: a batch norm may be folded away, an op may be written as several others. Two ops of one name
and overload compute the same thing, so what they read, operand by operand, is the same thing too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from quantizer_sdk.control_flow import form_of
from quantizer_sdk.provenance import value_of
from quantizer_sdk.qdq import CAST_OP, is_dequantize, is_quantize

__all__ = ["Twins", "find_twins", "is_rounding", "output_leaves"]

_BATCH_NORMS = frozenset(
    {torch.ops.aten.batch_norm.default, torch.ops.aten._native_batch_norm_legit_no_training.default}
)
_ATEN = torch.ops.aten
_RESHAPES = frozenset(
    (_ATEN.view, _ATEN.reshape, _ATEN._unsafe_view, _ATEN.flatten, _ATEN.unflatten, _ATEN.squeeze, _ATEN.unsqueeze)
)


@dataclass(frozen=True, slots=True)
class Twins:
    """The correspondence of two graphs.

    Attributes:
        values: By nodes of the quantized graph, the float graph's nodes of the same value.
        calls: By nodes of the quantized graph, the float graph's nodes of the same op, name and operands.
        reshaped: Those nodes of the quantized graph whose value has another shape, with the elements in the same order.
    """

    values: dict[Node, Node]
    calls: dict[Node, Node]
    reshaped: frozenset[Node]


def is_rounding(node: Node) -> bool:
    """Whether a node is part of a rounding: quantize, dequantize, or a cast to a smaller float type or back."""
    return is_quantize(node) or is_dequantize(node) or (node.op == "call_function" and node.target is CAST_OP)


def output_leaves(model: GraphModule) -> list[Any]:
    """Return what a graph returns, flat: nodes, numbers, None."""
    (output,) = model.graph.find_nodes(op="output")
    return tree_leaves(output.args[0])


def find_twins(reference: GraphModule, quantized: GraphModule) -> Twins:
    """Match the values of two graphs, not those of the graphs inside them."""
    calls = _same_calls(reference, quantized)
    evidence: dict[Node, list[Node]] = {}
    for node, twin in calls.items():
        _read_alike(tree_leaves((node.args, node.kwargs)), tree_leaves((twin.args, twin.kwargs)), evidence)
    _read_alike(output_leaves(quantized), output_leaves(reference), evidence)
    names = {node.name for node in quantized.graph.nodes}
    values: dict[Node, Node] = {}
    for node in quantized.graph.nodes:
        same = calls.get(node)
        if found := evidence.get(node):
            values[node] = same if same in found else found[0]
        elif same is not None:
            values[node] = _through_batch_norm(same, names)
    reshaped = set()
    for node in reversed(quantized.graph.nodes):
        if getattr(node.target, "overloadpacket", None) in _RESHAPES and node in values:
            source = _behind_roundings(node.all_input_nodes[0])
            if source not in values and source.op == "call_function":
                values[source] = values[node]
                reshaped.add(source)
    return Twins(values, calls, frozenset(reshaped))


def _same_calls(reference: GraphModule, quantized: GraphModule) -> dict[Node, Node]:
    floats = {node.name: node for node in reference.graph.nodes}
    by_attribute = {str(node.target): node for node in reference.graph.nodes if node.op == "get_attr"}
    ours = quantized.graph.find_nodes(op="placeholder")
    theirs = reference.graph.find_nodes(op="placeholder")
    by_position = dict(zip(ours, theirs, strict=True)) if len(ours) == len(theirs) else {}
    found: dict[Node, Node] = {}
    for node in quantized.graph.nodes:
        twin = floats.get(node.name)
        if node.op == "placeholder":
            twin = by_position.get(node, twin)
        elif node.op == "get_attr":
            twin = by_attribute.get(str(node.target))
        if twin is not None and node.op == twin.op and (node.op != "call_function" or _same_target(node, twin)):
            found[node] = twin
    return found


def _same_target(node: Node, twin: Node) -> bool:
    """Whether two calls are of one op, with results of one rank: whether an axis is kept is an argument."""
    if node.target is twin.target:
        ours, theirs = (it if isinstance(it, torch.Tensor) else None for it in (value_of(node), value_of(twin)))
        return ours is None or theirs is None or ours.dim() == theirs.dim()
    form, other = form_of(node), form_of(twin)
    return form is not None and form is other


def _read_alike(ours: list[Any], theirs: list[Any], evidence: dict[Node, list[Node]]) -> None:
    """Note that what two calls of one op read at the same place has the same value."""
    if len(ours) != len(theirs):
        return
    for operand, twin in zip(ours, theirs, strict=True):
        if isinstance(operand, Node) and isinstance(twin, Node):
            evidence.setdefault(_behind_roundings(operand), []).append(twin)


def _behind_roundings(node: Node) -> Node:
    while is_rounding(node):
        node = node.all_input_nodes[0]
    return node


def _through_batch_norm(node: Node, kept: set[str]) -> Node:
    """Follow a node to its batch norm if the quantized graph no longer has that one."""
    users = list(node.users)
    folded = len(users) == 1 and users[0].target in _BATCH_NORMS and users[0].name not in kept
    return users[0] if folded else node
