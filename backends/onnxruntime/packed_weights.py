"""Products of float activations by weights of 4 or 8 bits: MatMulNBits, or blocks of a DequantizeLinear."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onnxruntime.exported import arguments
from quantizer_sdk.backends.onnxruntime.onnx_graph import CONTRIB
from quantizer_sdk.backends.onnxruntime.operands import bias_of, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["packed_product"]

_GROUPS = torch.ops.quantized_decomposed.dequantize_per_channel_group.default
_SMALLEST_BLOCK = 16
_CHANNEL_BLOCK = 128
"""How many of a channel's weights are one block where the channel has one scale: the kernel takes no longer ones."""


def packed_product(call: Call, x: Any, weight: Any, bias: Any) -> ir.Value | None:
    """Multiply float activations [..., K] by a stored weight [N, K] of few bits; None where it is none.

    The kernel dequantizes blocks of the weight as it goes and computes in float32.
    """
    if not isinstance(weight, Node) or call.example(x).dtype is not torch.float32:
        return None
    if weight.target is _GROUPS:
        return _by_groups(call, x, weight, bias)
    channels = weight_of(call, weight, 0) if call.graph.contrib else None
    if channels is None or channels.codes.dtype is not torch.int8 or channels.codes.dim() != 2:
        return None
    rows, depth = channels.codes.shape
    blocks = max(math.ceil(depth / _CHANNEL_BLOCK), 1)
    scales, zeros = channels.scale.reshape(-1, 1).expand(rows, blocks), channels.zero_point
    if zeros is not None:
        zeros = zeros.reshape(-1, 1).expand(rows, blocks)
    return _n_bits(call, x, channels.codes, scales, zeros, _CHANNEL_BLOCK, 8, bias)


def _by_groups(call: Call, x: Any, weight: Node, bias: Any) -> ir.Value | None:
    named = arguments(weight)
    codes, scales = call.stored(named["input"]), call.stored(named["scales"])
    zeros = call.stored(named["zero_points"])
    if codes is None or scales is None or (zeros is None and named["zero_points"] is not None):
        return None
    if zeros is not None and zeros.is_floating_point() and bool((zeros != zeros.round()).any()):
        return None
    scales = scales.to(torch.float32).reshape(codes.shape[0], -1)
    zeros = None if zeros is None or not bool(zeros.any()) else zeros.reshape(scales.shape)
    four = named["quant_min"] >= -8 and named["quant_max"] <= 7
    block = codes.shape[1] // scales.shape[1]
    if call.graph.contrib and block >= _SMALLEST_BLOCK and block & (block - 1) == 0:
        return _n_bits(call, x, codes, scales, zeros, block, 4 if four else 8, bias)
    if zeros is not None:
        return None
    return _blocked(call, x, codes, scales, block, four=four, bias=bias)


def _n_bits(
    call: Call,
    x: Any,
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    block: int,
    bits: int,
    bias: Any,
) -> ir.Value:
    """MatMulNBits: unsigned codes, zero points in their middle unless given, float32 arithmetic."""
    rows, depth = codes.shape
    middle, blocks = 1 << (bits - 1), scales.shape[1]
    unsigned = torch.nn.functional.pad(codes.to(torch.int16) + middle, (0, blocks * block - depth), value=middle)
    packed = _packed(unsigned.to(torch.uint8).reshape(rows, blocks, block), bits)
    points = None
    if zeros is not None:
        points = _packed((zeros.to(torch.int16) + middle).to(torch.uint8), bits).reshape(rows, -1)
    operands = (
        call.value(x),
        call.constant("weight", packed),
        call.constant("weight_scale", scales.contiguous()),
        None if points is None else call.constant("weight_zero_point", points),
        None,
        bias_of(call, bias),
    )
    attributes = {"K": depth, "N": rows, "bits": bits, "block_size": block, "accuracy_level": 0}
    return call.emit(f"{CONTRIB}::MatMulNBits", *operands, **attributes)


def _packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Put two 4-bit codes into each byte along the last axis, the first into its low half."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[..., ::2] | (codes[..., 1::2] << 4)


def _blocked(
    call: Call, x: Any, codes: torch.Tensor, scales: torch.Tensor, block: int, *, four: bool, bias: Any
) -> ir.Value:
    """MatMul by a DequantizeLinear of blocks along the first axis of the transposed weight."""
    call.graph.require_opset(21)
    columns = codes.t().contiguous()
    stored = call.graph.constant_int4(f"{call.node.name}_weight", columns) if four else call.constant("weight", columns)
    scale = call.constant("weight_scale", scales.t())
    weight = call.emit("DequantizeLinear", stored, scale, axis=0, block_size=block)
    product = call.emit("MatMul", call.value(x), weight)
    return product if bias is None else call.emit("Add", product, bias_of(call, bias))
