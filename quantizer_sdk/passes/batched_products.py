"""Write attention and batched matmul as products of two rank 3 tensors, which need no broadcast.

Compilers for edge runtimes take `scaled_dot_product_attention` apart into a softmax that is safe against rows without
any entry, and `matmul` into a product of expanded operands; delegates take neither what makes it safe nor expanding.

Requires an exported graph with example values. Ensures: the result of a matmul is the same to the bit; that of an
attention differs by float rounding only, for without a mask no row is empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.operands import argument
from quantizer_sdk.passes.call_before import call_before
from quantizer_sdk.provenance import value_of

__all__ = ["batch_products"]

_ATEN = torch.ops.aten


def batch_products(model: GraphModule) -> None:
    """Rewrite what multiplies two tensors of one rank and with the same leading axes.

    Left as they are: operands that are broadcast, attention with a mask, causal, with dropout or with fewer heads of
    keys than of queries, and tensors with more than one dynamic leading axis or any other dynamic one.
    """
    for node in list(model.graph.nodes):
        if node.target is _ATEN.matmul.default:
            left, right = node.args
            if _have_one_batch(left, right):
                _replace(model, node, _product(node, left, right, like=left))
        elif node.target is _ATEN.scaled_dot_product_attention.default and _is_plain(node):
            query, key, value = node.args[:3]
            if _have_one_batch(query, key, value):
                _replace(model, node, _attention(node, query, key, value))


def _is_plain(node: Node) -> bool:
    unset = not any(argument(node, name) for name in ("dropout_p", "is_causal", "enable_gqa"))
    scale = argument(node, "scale")
    return unset and argument(node, "attn_mask") is None and (scale is None or isinstance(scale, float))


def _attention(node: Node, query: Any, key: Any, value: Any) -> Node:
    scale = argument(node, "scale")
    if scale is None:
        scale = 1 / math.sqrt(value_of(query).shape[-1])
    transposed = call_before(node, _ATEN.transpose.int, key, -2, -1)
    scores = _product(node, query, transposed, like=query)
    scaled = call_before(node, _ATEN.div.Tensor, scores, 1 / scale)
    weights = call_before(node, _ATEN.softmax.int, scaled, -1)
    return _product(node, weights, value, like=query)


def _product(node: Node, left: Any, right: Any, *, like: Any) -> Node:
    """Insert the product of two tensors with the leading axes of `like`."""
    leading = value_of(like).shape[:-2]
    if len(leading) == 1:
        return call_before(node, _ATEN.bmm.default, left, right)
    batch = -1 if any(not isinstance(size, int) for size in leading) else math.prod(leading)
    flat = (
        call_before(node, _ATEN.reshape.default, operand, [batch, *value_of(operand).shape[-2:]])
        for operand in (left, right)
    )
    product = call_before(node, _ATEN.bmm.default, *flat)
    sizes = [size if isinstance(size, int) else -1 for size in leading]
    return call_before(node, _ATEN.reshape.default, product, [*sizes, *value_of(product).shape[-2:]])


def _replace(model: GraphModule, node: Node, new: Node) -> None:
    node.replace_all_uses_with(new)
    model.graph.erase_node(node)


def _have_one_batch(*operands: Any) -> bool:
    """Whether tensors have the same leading axes, at least one and at most one of them dynamic, and static last two."""
    shapes = [value_of(operand).shape if isinstance(operand, Node) else () for operand in operands]
    first = shapes[0]
    if any(len(shape) != len(first) or len(shape) < 3 for shape in shapes):
        return False
    if not all(isinstance(size, int) for shape in shapes for size in shape[-2:]):
        return False
    if sum(not isinstance(size, int) for size in first[:-2]) > 1:
        return False
    return all(_key(shape[:-2]) == _key(first[:-2]) for shape in shapes)


def _key(sizes: Sequence[Any]) -> list[Any]:
    """Return what equal sizes have in common; comparing dynamic ones themselves would put guards on the model."""
    return [size if isinstance(size, int) else size.node.expr for size in sizes]
