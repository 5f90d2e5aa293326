"""Write select and unbind as slices and reshapes, exactly: delegates take these, and move int8 codes by them.

Requires an exported graph with example values. Ensures: values are the same.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.operands import argument
from quantizer_sdk.passes.call_before import call_before
from quantizer_sdk.provenance import value_of

__all__ = ["selects_as_slices"]

_ATEN = torch.ops.aten


def selects_as_slices(model: GraphModule) -> None:
    """Rewrite what takes known places of a static axis; results with two dynamic axes stay: a reshape has one open."""
    for node in list(model.graph.nodes):
        if node.target is _ATEN.select.int:
            index = argument(node, "index")
            if isinstance(index, int) and _is_regular(node, value_of(node)):
                _take(model, node, node, index)
        elif node.target is _ATEN.unbind.int:
            parts = value_of(node)
            unpacked = all(user.target is operator.getitem for user in node.users)
            if unpacked and parts and _is_regular(node, parts[0]):
                for user in list(node.users):
                    _take(model, node, user, user.args[1])
                model.graph.erase_node(node)


def _is_regular(node: Node, part: Any) -> bool:
    whole, axis = value_of(argument(node, "self")), argument(node, "dim")
    if not isinstance(part, torch.Tensor) or not isinstance(whole, torch.Tensor):
        return False
    dynamic = sum(not isinstance(size, int) for size in part.shape)
    return isinstance(whole.shape[axis], int) and dynamic <= 1


def _take(model: GraphModule, node: Node, result: Node, index: Any) -> None:
    """Replace a result of `node` by the slice at an index, without its axis."""
    operand, axis = argument(node, "self"), argument(node, "dim")
    index %= value_of(operand).shape[axis]
    shape = [size if isinstance(size, int) else -1 for size in value_of(result).shape]
    part = call_before(node, _ATEN.slice.Tensor, operand, axis, index, index + 1)
    taken = call_before(node, _ATEN.reshape.default, part, shape)
    taken.meta["val"] = value_of(result)
    result.replace_all_uses_with(taken)
    model.graph.erase_node(result)
