"""Write batched products by one matrix, as `run_decompositions` leaves of some linear layers, as linear layers again.

A layer whose input is not contiguous, as in torch's attention modules, is decomposed into `expand`, `view`, `bmm`,
`view` and `add`. Requires an exported graph; values change by the order in which a kernel sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import erase_unused
from quantizer_sdk.decision import absorb
from quantizer_sdk.match import is_constant
from quantizer_sdk.operands import argument
from quantizer_sdk.passes.call_before import retarget
from quantizer_sdk.passes.rewrites_of_gemms import transposed
from quantizer_sdk.provenance import value_of

__all__ = ["compose_products"]

_ATEN = torch.ops.aten


def compose_products(model: GraphModule) -> None:
    """Compose all of a graph, and take out what expands a tensor to the shape that it has."""
    for node in list(model.graph.nodes):
        if node.target is _ATEN.expand.default and _same_shape(node, node.args[0]):
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)
        elif node.target is _ATEN.bmm.default:
            _compose(node)


def _compose(product: Node) -> None:
    left, right = product.args
    if not isinstance(left, Node) or not isinstance(right, Node) or is_constant(left):
        return
    matrix = _repeated(right)
    weight = None if matrix is None else transposed(matrix)
    if matrix is None or weight is None:
        return
    retarget(product, _ATEN.linear.default, (left, weight))
    erase_unused(right)
    _take_in_bias(product)


def _repeated(node: Node) -> Node | None:
    """Return the constant matrix of which all that a node stacks are copies, if it is so."""
    inner: Any = node
    if inner.target is _ATEN.view.default and _same_shape(inner, inner.args[0]):
        inner = inner.args[0]
    if inner.target is not _ATEN.expand.default or not isinstance(inner.args[0], Node) or not is_constant(inner):
        return None
    matrix = inner.args[0]
    shape = value_of(matrix).shape
    return matrix if len(shape) == 2 and _are_same(value_of(node).shape[1:], shape) else None


def _take_in_bias(layer: Node) -> None:
    """Let a layer add the vector that is added to its result, be it seen in another shape."""
    result = layer
    while len(result.users) == 1 and (user := next(iter(result.users))).target is _ATEN.view.default:
        result = user
    if len(result.users) != 1:
        return
    (added,) = result.users
    if added.target is not _ATEN.add.Tensor or added.args[0] is not result or argument(added, "alpha") != 1:
        return
    bias = added.args[1]
    features = value_of(layer.args[1]).shape[:1]  # type: ignore[arg-type]
    if not isinstance(bias, Node) or bias.op != "get_attr" or not is_constant(bias):
        return
    if value_of(bias).shape != features or not _are_same(value_of(result).shape[-1:], features):
        return
    if layer < bias:
        layer.prepend(bias)
    layer.args = (*layer.args, bias)
    absorb(layer, added, "written as")
    added.replace_all_uses_with(result)
    added.graph.erase_node(added)


def _same_shape(node: Any, other: Any) -> bool:
    one, two = value_of(node), value_of(other) if isinstance(other, Node) else None
    return isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor) and _are_same(one.shape, two.shape)


def _are_same(shape: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two shapes are the same as written: comparing open sizes would fix them."""
    return [str(size) for size in shape] == [str(size) for size in other]
