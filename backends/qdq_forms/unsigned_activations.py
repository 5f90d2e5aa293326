"""Signed activations as unsigned ones: the code and its zero point both grow by 128, so the numbers are the same.

x86 multiplies unsigned by signed bytes; for signed activations its libraries have slow kernels, or none. Requires a
copy of the user's model. Ensures: no per-tensor quantize or dequantize of an activation has int8 codes, and inputs and
outputs of the model that are int8 tensors still are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.qdq_forms.gemm_weights import weight_dequantizes
from quantizer_sdk.backends.qdq_forms.new_nodes import add_call

__all__ = ["to_unsigned_activations"]

_OFFSET = 128
_OPS = torch.ops.quantized_decomposed
_QUANTIZES = frozenset({_OPS.quantize_per_tensor.default, _OPS.quantize_per_tensor.tensor})
_DEQUANTIZES = frozenset({_OPS.dequantize_per_tensor.default, _OPS.dequantize_per_tensor.tensor})
_aten = torch.ops.aten


def to_unsigned_activations(model: GraphModule) -> None:
    """Give int8 activations uint8 codes, 128 above.

    Args:
        model: The graph to change. Weights of gemms stay as they are; qparams may be numbers or computed at run time.
    """
    weights = weight_dequantizes(model.graph)
    unsigned: dict[Node, Node] = {}  # by what holds signed codes
    zero_points: dict[Node, Node] = {}
    for node in list(model.graph.nodes):
        if node.target in _QUANTIZES and node.args[5] is torch.int8:
            users = list(node.users)
            _grow(node, zero_points)
            unsigned[node] = node
            others = [user for user in users if not _reads_codes(user)]
            if others:
                with model.graph.inserting_before(node.next):
                    signed = _flip(node, torch.int8)
                for user in others:
                    user.replace_input_with(node, signed)
        elif _reads_codes(node) and node not in weights:
            codes = node.args[0]
            if codes not in unsigned:
                with model.graph.inserting_before(node):  # not after the codes: placeholders come first
                    unsigned[codes] = _flip(codes, torch.uint8)
            node.replace_input_with(codes, unsigned[codes])
            _grow(node, zero_points)
    model.recompile()


def _reads_codes(node: Node) -> bool:
    """Whether a node dequantizes a tensor of signed codes."""
    return node.target in _DEQUANTIZES and node.args[5] is torch.int8


def _grow(node: Node, zero_points: dict[Node, Node]) -> None:
    """Move the zero point and the range of a quantize or dequantize up, and its type to uint8."""
    tensor, scale, zero_point, low, high, _ = node.args
    moved: Any
    if isinstance(zero_point, Node):
        if zero_point not in zero_points:
            with node.graph.inserting_after(zero_point):
                zero_points[zero_point] = add_call(_aten.add.Scalar, zero_point, _OFFSET, like=zero_point)
        moved = zero_points[zero_point]
    else:
        moved = zero_point + _OFFSET  # type: ignore[operator]  # a number, as the op's schema has it
    codes = (low + _OFFSET, high + _OFFSET, torch.uint8)  # type: ignore[operator]  # likewise
    node.args = (tensor, scale, moved, *codes)
    example = node.meta.get("val")
    if node.target in _QUANTIZES and isinstance(example, torch.Tensor):
        node.meta["val"] = example.view(torch.uint8)


def _flip(codes: Node, dtype: torch.dtype) -> Node:
    """Add 128 to codes by turning over their top bit, which leaves the same bits for the other type to read."""
    viewed = codes if dtype is torch.int8 else add_call(_aten.view.dtype, codes, torch.uint8, like=codes)
    flipped = add_call(_aten.bitwise_xor.Scalar, viewed, _OFFSET, like=codes)
    return flipped if dtype is torch.uint8 else add_call(_aten.view.dtype, flipped, dtype, like=codes)
