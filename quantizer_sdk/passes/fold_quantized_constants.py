"""Compute the codes of quantized constants now, so that no float weight is left in the model.

Requires a graph with q/dq. Ensures: no quantize op depends on constants alone; a tensor that nothing reads any more,
such as a float weight or the counter of a folded batch norm, is gone from the state dict.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from quantizer_sdk.constants import Constants
from quantizer_sdk.qdq import is_quantize

__all__ = ["fold_quantized_constants"]


def fold_quantized_constants(model: GraphModule) -> None:
    """Replace each quantize op that depends on constants alone by a stored tensor of its codes.

    Pure ops between the weight and its quantize op, such as a transpose, are computed as well.
    """
    constants = Constants(model)
    constant: set[Node] = set()
    folded: list[Node] = []
    for node in model.graph.nodes:
        if node.op == "get_attr" or _is_pure(node, constant):
            constant.add(node)
            if is_quantize(node):
                folded.append(node)
    values: dict[Node, Any] = {}
    for node in folded:
        target = str(_origin(node).target)
        codes = _evaluate(node, values, constants)
        dependencies = _dependencies(node)
        node.args = ()
        for dependency in dependencies[1:]:
            if dependency.users:
                continue
            values.pop(dependency, None)
            if dependency.op == "get_attr":
                constants.release(dependency)
            else:
                model.graph.erase_node(dependency)
        with model.graph.inserting_before(node):
            new = constants.add(target, codes, like=node)
        node.replace_all_uses_with(new)
        model.graph.erase_node(node)
    for node in list(model.graph.nodes):
        constants.release(node)


def _is_pure(node: Node, constant: set[Node]) -> bool:
    """Whether a call computes the same value each time: no side effect, no random numbers, constants only."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    operands = node.all_input_nodes
    return bool(operands) and all(operand in constant for operand in operands)


def _dependencies(node: Node) -> list[Node]:
    """Return the node and all that it depends on, users before producers, so that they can be erased in this order."""
    seen: set[Node] = set()
    stack, found = [node], []
    while stack:
        current = stack.pop()
        if current not in seen:
            seen.add(current)
            found.append(current)
            stack.extend(current.all_input_nodes)
    return sorted(found, reverse=True)


def _origin(node: Node) -> Node:
    """Return the get_attr node of the float tensor whose codes a quantize op yields."""
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return node


def _evaluate(node: Node, values: dict[Node, Any], constants: Constants) -> torch.Tensor:
    """Compute a node that depends on constants alone; operands are computed once however many read them."""
    for current in reversed(_dependencies(node)):
        if current in values:
            continue
        if current.op == "get_attr":
            values[current] = constants.read(current).detach()
        else:
            args, kwargs = map_arg((current.args, dict(current.kwargs)), values.__getitem__)
            assert callable(current.target)
            with torch.no_grad():
                values[current] = current.target(*args, **kwargs)
    codes = values.pop(node)
    assert isinstance(codes, torch.Tensor)
    return codes.contiguous()
