"""Quantize and dequantize as ONNX nodes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["dequantize", "quantize"]

_CODES = (torch.uint8, torch.int8)


def quantize(call: Call) -> ir.Value:
    """QuantizeLinear, then a Clip of the codes where their range is narrower than the dtype."""
    dtype, ends = call.args["dtype"], [call.args["quant_min"], call.args["quant_max"]]
    if dtype not in _CODES:
        raise call.refuse(f"codes of {dtype}; expected torch.uint8 or torch.int8")
    axis, scale, zero_point = _qparams(call)
    codes = call.emit("QuantizeLinear", call.value(call.args["input"]), scale, zero_point, axis=axis)
    limits = torch.iinfo(dtype)
    if ends == [limits.min, limits.max]:
        return codes
    low, high = (call.constant(name, torch.tensor(end, dtype=dtype)) for name, end in zip("lh", ends, strict=True))
    return call.emit("Clip", codes, low, high)


def dequantize(call: Call) -> ir.Value:
    """DequantizeLinear."""
    call.require(out_dtype=None)
    if call.args["dtype"] not in (*_CODES, torch.int32):
        raise call.refuse(f"codes of {call.args['dtype']}; expected torch.uint8, torch.int8 or torch.int32")
    axis, scale, zero_point = _qparams(call)
    return call.emit("DequantizeLinear", call.value(call.args["input"]), scale, zero_point, axis=axis)


def _qparams(call: Call) -> tuple[int | None, ir.Value, ir.Value]:
    """Return axis, scale and zero point: a vector each along an axis, else scalars."""
    axis, dtype = call.args.get("axis"), call.args["dtype"]
    if axis is None:
        scale = torch.tensor(call.args["scale"], dtype=torch.float32)
        zero_point = torch.tensor(call.args["zero_point"], dtype=dtype)
    else:
        scale = call.tensor("scales").to(torch.float32)
        zeros = call.args["zero_points"]
        zero_point = torch.zeros_like(scale).to(dtype) if zeros is None else call.tensor("zero_points").to(dtype)
    if not bool(((scale > 0) & (scale < math.inf)).all()):
        raise call.refuse("a scale that is no positive finite float32 number")
    return axis, call.constant("scale", scale), call.constant("zero_point", zero_point)
