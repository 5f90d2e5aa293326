"""Quantize and dequantize in layouts that QuantizeLinear has no form for: written out in arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = [
    "dequantize_per_block",
    "dequantize_per_group",
    "dequantize_per_token",
    "fake_quantize_per_channel",
    "quantize_per_block",
    "quantize_per_group",
    "quantize_per_token",
    "split",
    "token_codes",
]


def quantize_per_token(call: Call) -> ir.Value:
    """Codes of the dtype that the op says."""
    return call.cast(token_codes(call, call.args), call.args["dtype"])


def token_codes(call: Call, args: dict[str, Any], shift: int = 0) -> ir.Value:
    """Return each token's codes as float numbers, plus `shift`; the zero point is added before the rounding."""
    x = call.value(args["input"], torch.float32)
    inverse = call.emit("Reciprocal", call.value(args["scales"], torch.float32))
    raw = call.emit("Mul", x, inverse)
    raw = call.emit("Add", raw, call.value(args["zero_points"], torch.float32))
    codes = call.emit("Round", raw)
    codes = call.emit("Clip", codes, call.value(float(args["quant_min"])), call.value(float(args["quant_max"])))
    return call.emit("Add", codes, call.value(float(shift))) if shift else codes


def dequantize_per_token(call: Call) -> ir.Value:
    """(code - zero point) * scale."""
    real = _real(call, *(call.value(call.args[name], torch.float32) for name in ("input", "zero_points", "scales")))
    return _as(call, real, call.args["output_dtype"])


def quantize_per_group(call: Call) -> ir.Value:
    """Codes of groups along the rows of a matrix; the zero point is added before the rounding."""
    size = call.args["group_size"]
    x = call.emit("Reshape", call.value(call.args["input"], torch.float32), call.int64("groups", [-1, size]))
    scale, zero_point = _beside_groups(call)
    raw = call.emit("Add", call.emit("Mul", x, call.emit("Reciprocal", scale)), zero_point)
    codes = _clip(call, call.emit("Round", raw))
    return call.cast(_like_input(call, codes), call.args["dtype"])


def dequantize_per_group(call: Call) -> ir.Value:
    """DequantizeLinear by blocks where zero points are integers; a stored weight of four bits is stored as such."""
    size, codes = call.args["group_size"], call.stored(call.args["input"])
    scales, zeros = call.stored(call.args["scales"]), call.args["zero_points"]
    plain = zeros is None or (call.stored(zeros) is not None and not bool(call.tensor("zero_points").any()))
    if codes is None or scales is None or not plain:
        scale, zero_point = _beside_groups(call)
        groups = call.emit("Reshape", call.value(call.args["input"], torch.float32), call.int64("groups", [-1, size]))
        return _as(call, _like_input(call, _real(call, groups, zero_point, scale)), call.args["output_dtype"])
    call.graph.require_opset(21)
    four_bits = call.args["quant_min"] >= -8 and call.args["quant_max"] <= 7
    stored = call.graph.constant_int4(f"{call.node.name}_int4", codes) if four_bits else call.value(call.args["input"])
    grid = scales.to(torch.float32).reshape(codes.shape[0], -1)
    block = codes.shape[1] // grid.shape[1]
    real = call.emit("DequantizeLinear", stored, call.constant("scale", grid), axis=1, block_size=block)
    return _as(call, real, call.args["output_dtype"])


def quantize_per_block(call: Call) -> ir.Value:
    """Codes of blocks; the zero point is added after the rounding."""
    blocks, axes = split(call, call.args["input"], call.args["block_size"])
    scale, zero_point = _beside_blocks(call, axes)
    raw = call.emit("Mul", blocks, call.emit("Reciprocal", scale))
    codes = _clip(call, call.emit("Add", call.emit("Round", raw), zero_point))
    return call.cast(_like_input(call, codes), call.args["dtype"])


def dequantize_per_block(call: Call) -> ir.Value:
    """(code - zero point) * scale."""
    blocks, axes = split(call, call.args["input"], call.args["block_size"])
    scale, zero_point = _beside_blocks(call, axes)
    return _as(call, _like_input(call, _real(call, blocks, zero_point, scale)), call.args["out_dtype"])


def fake_quantize_per_channel(call: Call) -> ir.Value:
    """Quantize and dequantize in float, along an axis."""
    rank, axis = call.example(call.args["input"]).dim(), call.args["axis"]
    others = call.int64("others", [place for place in range(rank) if place != axis % rank])
    scale, zero_point = (
        call.emit("Unsqueeze", call.value(call.args[name], torch.float32), others) for name in ("scales", "zero_points")
    )
    raw = call.emit("Mul", call.value(call.args["input"]), call.emit("Reciprocal", scale))
    return _real(call, _clip(call, call.emit("Add", call.emit("Round", raw), zero_point)), zero_point, scale)


def split(call: Call, tensor: Node, block_size: Sequence[int]) -> tuple[ir.Value, list[int]]:
    """Reshape a tensor so that each axis becomes one over the blocks and one inside them.

    Returns:
        The tensor as float32, and the axes inside blocks.

    Raises:
        LoweringError: More than one size is known at run time only.
    """
    shape: list[Any] = []
    for block, size in zip(block_size, call.example(tensor).shape, strict=True):
        known = size if isinstance(size, int) else None
        shape += (
            [1, -1 if known is None else known] if block == -1 else [-1 if known is None else known // block, block]
        )
    if shape.count(-1) > 1:
        raise call.refuse(f"blocks of a tensor of shape {tuple(call.example(tensor).shape)}; expected one dynamic size")
    axes = list(range(1, len(shape), 2))
    return call.emit("Reshape", call.value(tensor, torch.float32), call.int64("blocks", shape)), axes


def _beside_blocks(call: Call, axes: Sequence[int]) -> tuple[ir.Value, ir.Value]:
    """Return scale and zero point with an axis of 1 beside each of the grid's."""
    over = call.int64("axes", axes)
    scale, zero_point = (
        call.emit("Unsqueeze", call.value(call.args[name], torch.float32), over) for name in ("scales", "zero_points")
    )
    return scale, zero_point


def _beside_groups(call: Call) -> tuple[ir.Value, ir.Value]:
    column = call.int64("column", [-1, 1])
    scale = call.emit("Reshape", call.value(call.args["scales"], torch.float32), column)
    zeros = call.args["zero_points"]
    if zeros is None:
        return scale, call.value(0.0)
    return scale, call.emit("Reshape", call.value(zeros, torch.float32), column)


def _real(call: Call, codes: ir.Value, zero_point: ir.Value, scale: ir.Value) -> ir.Value:
    return call.emit("Mul", call.emit("Sub", codes, zero_point), scale)


def _clip(call: Call, codes: ir.Value) -> ir.Value:
    return call.emit("Clip", codes, *(call.value(float(call.args[end])) for end in ("quant_min", "quant_max")))


def _like_input(call: Call, value: ir.Value) -> ir.Value:
    """Reshape to the shape of the input."""
    return call.emit("Reshape", value, call.emit("Shape", call.value(call.args["input"])))


def _as(call: Call, value: ir.Value, dtype: torch.dtype | None) -> ir.Value:
    return value if dtype in (None, torch.float32) else call.cast(value, dtype)
