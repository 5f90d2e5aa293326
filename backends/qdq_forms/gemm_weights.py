"""Which dequantizes of a graph give the weights of convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

__all__ = ["CONVOLUTIONS", "GEMMS", "TRANSPOSED_CONVOLUTIONS", "is_dequantize", "weight_dequantizes", "weight_of"]

_aten = torch.ops.aten
_OPS = torch.ops.quantized_decomposed

CONVOLUTIONS = frozenset(
    {
        _aten.conv1d.default,
        _aten.conv1d.padding,
        _aten.conv2d.default,
        _aten.conv2d.padding,
        _aten.conv3d.default,
        _aten.conv3d.padding,
        _aten.convolution.default,
    }
)
TRANSPOSED_CONVOLUTIONS = frozenset(
    {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input}
)
# By the place of the weight.
_PLACES: dict[Any, int] = {
    **dict.fromkeys(CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS, 1),
    _aten.linear.default: 1,
    _aten.mm.default: 1,
    _aten.bmm.default: 1,
    _aten.matmul.default: 1,
    _aten.addmm.default: 2,
}
GEMMS = frozenset(_PLACES)
_TURNS = frozenset({_aten.t.default, _aten.permute.default, _aten.transpose.int, _aten.numpy_T.default})
_DEQUANTIZES = frozenset(
    {
        _OPS.dequantize_per_tensor.default,
        _OPS.dequantize_per_tensor.tensor,
        _OPS.dequantize_per_channel.default,
        _OPS.dequantize_per_channel_group.default,
        _OPS.dequantize_per_token.default,
    }
)


def is_dequantize(node: object) -> bool:
    """Whether a node turns codes into a float tensor."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in _DEQUANTIZES


def weight_of(gemm: Node) -> Node | None:
    """Return the dequantize of a constant that gives a call its weight, transposed or not; None where none does."""
    place = _PLACES.get(gemm.target)
    if place is None or len(gemm.args) <= place:
        return None
    weight = gemm.args[place]
    if isinstance(weight, Node) and weight.target in _TURNS:
        weight = weight.args[0]
    if not isinstance(weight, Node) or not is_dequantize(weight):
        return None
    codes = weight.args[0]
    return weight if isinstance(codes, Node) and codes.op == "get_attr" else None


def weight_dequantizes(graph: Graph) -> frozenset[Node]:
    """Return the dequantizes of constants that give gemms their weights."""
    weights = (weight_of(node) for node in graph.nodes)
    return frozenset(weight for weight in weights if weight is not None)
