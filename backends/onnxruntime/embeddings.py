"""Embeddings: the integers of the rows are looked up, and dequantized after that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onnxruntime.exported import arguments
from quantizer_sdk.backends.onnxruntime.operands import weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["EXECUTORCH_EMBEDDINGS", "embedding", "executorch_embedding"]

_GROUPS = torch.ops.quantized_decomposed.dequantize_per_channel_group.default

EXECUTORCH_EMBEDDINGS = {
    f"quantized_decomposed::embedding_{kind}{overload}": bits
    for kind, bits in (("byte", 8), ("4bit", 4), ("2bit", 2))
    for overload in ("", ".dtype")
}
"""The bits of a code in ExecuTorch's own ops, by their names: they exist where ExecuTorch is imported."""


def embedding(call: Call) -> ir.Value:
    """Gather of the rows: of codes where the table is stored so, else of floats."""
    table, places = call.args["weight"], call.value(call.args["indices"])
    if isinstance(table, Node) and table.target is _GROUPS:
        named = arguments(table)
        codes, scales, zeros = (call.stored(named[name]) for name in ("input", "scales", "zero_points"))
        if codes is not None and scales is not None and (zeros is not None or named["zero_points"] is None):
            return _looked_up(call, call.value(named["input"]), scales.reshape(codes.shape[0], -1), zeros, places)
    by_row, by_column = (weight_of(call, table, axis) for axis in (0, 1))
    found = by_row or by_column
    if found is None:
        return call.emit("Gather", call.value(table), places, axis=0)
    codes_value = call.value(arguments(table)["input"])
    if found.scale.dim() and by_row is not None:
        return _looked_up(call, codes_value, found.scale, found.zero_point, places)
    rows = call.emit("Gather", codes_value, places, axis=0)
    zero = None if found.zero_point is None else call.constant("zero_point", found.zero_point)
    axis = call.example().dim() - 1 if found.scale.dim() else None
    return call.emit("DequantizeLinear", rows, call.constant("scale", found.scale), zero, axis=axis)


def executorch_embedding(call: Call, bits: int) -> ir.Value:
    """The same of ExecuTorch's own ops, whose tables hold several codes a byte."""
    table, scales = call.tensor("weight"), call.tensor("weight_scales").to(torch.float32)
    zeros = None if call.args["weight_zero_points"] is None else call.tensor("weight_zero_points")
    codes = call.constant("table", _unpacked(table, bits))
    result = _looked_up(call, codes, scales, zeros, call.value(call.args["indices"]))
    wanted = call.example().dtype
    return result if wanted is torch.float32 else call.cast(result, wanted)


def _unpacked(table: torch.Tensor, bits: int) -> torch.Tensor:
    """Return one code a byte: of 4 bits the first is in the high half, of 2 bits in the lowest."""
    if bits == 8:
        return table
    numbers = table.view(torch.uint8).to(torch.int16)
    shifts = (4, 0) if bits == 4 else (0, 2, 4, 6)
    parts = [(numbers >> shift) & ((1 << bits) - 1) for shift in shifts]
    return (torch.stack(parts, -1).flatten(1) - (1 << (bits - 1))).to(torch.int8)


def _looked_up(call: Call, table: ir.Value, scales: torch.Tensor, zeros: torch.Tensor | None, places: Any) -> ir.Value:
    """Gather rows of codes, and their scales and zero points: one for each row, or for each group of a row."""
    groups = scales.shape[1] if scales.dim() == 2 else 1
    rows = call.emit("Gather", table, places, axis=0)
    numbers, last = call.emit("Cast", rows, to=int(call.graph.dtype(torch.float32))), call.int64("last", [-1])
    if groups > 1:
        split = call.emit("Concat", call.emit("Shape", places), call.int64("groups", [groups, -1]), axis=0)
        numbers = call.emit("Reshape", numbers, split)
    shape = [scales.shape[0], groups] if groups > 1 else [scales.shape[0]]
    if zeros is not None and bool(zeros.any()):
        numbers = call.emit("Sub", numbers, _beside(call, "zero_points", zeros.reshape(shape), places, last))
    real = call.emit("Mul", numbers, _beside(call, "scales", scales.reshape(shape), places, last))
    return call.emit("Reshape", real, call.emit("Shape", rows)) if groups > 1 else real


def _beside(call: Call, name: str, qparams: torch.Tensor, places: ir.Value, last: ir.Value) -> ir.Value:
    """Gather what belongs to each row, with an axis of 1 for its codes."""
    stored = call.constant(name, qparams.to(torch.float32))
    return call.emit("Unsqueeze", call.emit("Gather", stored, places, axis=0), last)
