"""Embeddings that look up codes and dequantize what they found, instead of the whole table first.

Requires a copy of the user's model. Ensures: an embedding reads a table of integers, and gives the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.qdq_forms.new_nodes import add_call, constant_of

__all__ = ["gather_codes"]

_ATEN = torch.ops.aten
_OPS = torch.ops.quantized_decomposed


def gather_codes(model: GraphModule) -> None:
    """Rewrite the embeddings whose table is dequantized with one scale, or with one for each row.

    Args:
        model: The graph to change.
    """
    for node in list(model.graph.find_nodes(op="call_function", target=_ATEN.embedding.default)):
        table = node.args[0]
        if isinstance(table, Node) and table.target is _OPS.dequantize_per_channel.default and table.args[3] == 0:
            _gather(model, node, table)
        elif isinstance(table, Node) and table.target is _OPS.dequantize_per_tensor.default:
            with model.graph.inserting_before(node):
                codes = add_call(_ATEN.embedding.default, table.args[0], *node.args[1:], like=node)
                found = add_call(table.target, codes, *table.args[1:], like=node)
            node.replace_all_uses_with(found)
            model.graph.erase_node(node)
    model.graph.eliminate_dead_code()
    model.recompile()


def _gather(model: GraphModule, node: Node, table: Node) -> None:
    """Look up codes, scales and zero points, and compute (code - zero point)·scale as the dequantize does."""
    codes_of_rows, scales, zero_points = table.args[:3]
    indices: Any = node.args[1]
    zeros = constant_of(model, zero_points)
    with model.graph.inserting_before(node):
        codes = add_call(_ATEN.embedding.default, codes_of_rows, *node.args[1:], like=node)
        real = add_call(_ATEN.to.dtype, codes, torch.float32, like=node)
        if zero_points is not None and (zeros is None or bool(zeros.any())):
            zero = add_call(_ATEN.unsqueeze.default, _looked_up(zero_points, indices, node), -1, like=node)
            real = add_call(_ATEN.sub.Tensor, real, zero, like=node)
        scale = add_call(_ATEN.unsqueeze.default, _looked_up(scales, indices, node), -1, like=node)
        found = add_call(_ATEN.mul.Tensor, real, scale, like=node)
    node.replace_all_uses_with(found)
    model.graph.erase_node(node)


def _looked_up(vector: Any, indices: Any, like: Node) -> Node:
    return add_call(_ATEN.index.Tensor, vector, [indices], like=like)
