"""Quantize and dequantize as ONNX nodes: QuantizeLinear and DequantizeLinear where these have the layout of qparams."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["DEQUANTIZE", "QUANTIZE", "dequantize", "quantize"]

qd = torch.ops.quantized_decomposed

QUANTIZE = qd.quantize_per_tensor.default
DEQUANTIZE = qd.dequantize_per_tensor.default

_CONVOLUTIONS = frozenset(
    overload
    for packet in (torch.ops.aten.conv1d, torch.ops.aten.conv2d, torch.ops.aten.conv3d)
    for overload in (packet.default, packet.padding)
)
_SIXTEEN_BITS = frozenset({torch.int16, torch.uint16})
_CODES = frozenset({torch.uint8, torch.int8}) | _SIXTEEN_BITS


def quantize(call: Call) -> ir.Value:
    """QuantizeLinear, then a Clip of the codes where their range is narrower than the dtype."""
    dtype = call.args["dtype"]
    if dtype not in _CODES:
        raise call.refuse(f"codes of {dtype}; expected {', '.join(sorted(map(str, _CODES)))}")
    if dtype in _SIXTEEN_BITS:
        call.graph.require_opset(21)
    codes = _codes_as_they_are(call)
    if codes is None:
        axis, scale, zero_point = _qparams(call)
        codes = call.emit("QuantizeLinear", _operand(call), scale, zero_point, axis=axis)
    return _clipped(call, codes, dtype)


def dequantize(call: Call) -> ir.Value:
    """DequantizeLinear."""
    if call.args["dtype"] not in (*_CODES, torch.int32):
        raise call.refuse(f"codes of {call.args['dtype']}; expected torch.int32 or at most 16 bits")
    if call.args["dtype"] in _SIXTEEN_BITS:
        call.graph.require_opset(21)
    # ORT 1.32 makes integer kernels of convolutions without zero points, and none of products.
    axis, scale, zero_point = _qparams(call, leave_out=all(user.target in _CONVOLUTIONS for user in call.node.users))
    real = call.emit("DequantizeLinear", call.value(call.args["input"]), scale, zero_point, axis=axis)
    wanted = call.args["out_dtype"]
    return real if wanted in (None, torch.float32) else call.cast(real, wanted)


def _operand(call: Call) -> ir.Value:
    """Return the tensor to quantize. One that was dequantized with other qparams comes from codes behind a Clip.

    ONNX Runtime gives quantize, dequantize, quantize, dequantize one set of qparams, which changes numbers, unless
    something stands between the first two.
    """
    source = call.args["input"]
    if source.target is DEQUANTIZE and not call.is_constant(source.args[0]) and source.args[0].op != "placeholder":
        codes, scale, zero_point, _, _, dtype = source.args
        ends = torch.iinfo(dtype)
        bounds = [call.constant("full_range", torch.tensor(end, dtype=dtype)) for end in (ends.min, ends.max)]
        barrier = call.emit("Clip", call.value(codes), *bounds)
        qparams = (torch.tensor(scale, dtype=torch.float32), torch.tensor(zero_point, dtype=dtype))
        operands = [call.constant(name, value) for name, value in zip(("scale", "zero_point"), qparams, strict=True)]
        return call.emit("DequantizeLinear", barrier, *operands)
    return call.value(source, torch.float32)


def _codes_as_they_are(call: Call) -> ir.Value | None:
    """Return codes that exist already: those that were dequantized the same way, or that a run-time quantize gave."""
    source = call.args["input"]
    if call.node.target is QUANTIZE and source.target is DEQUANTIZE:
        same = source.args[1:3] == call.node.args[1:3] and source.args[5] is call.args["dtype"]
        return call.value(source.args[0]) if same else None
    scale = call.args.get("scale")
    if isinstance(scale, Node) and not call.is_constant(scale):
        producer = call.look_through(scale).producer()
        if producer is not None and producer.op_type == "DynamicQuantizeLinear":
            same = producer.inputs[0] is call.value(source, torch.float32)
            return producer.outputs[0] if same and call.args["dtype"] is torch.uint8 else None
    return None


def _clipped(call: Call, codes: ir.Value, dtype: torch.dtype) -> ir.Value:
    """Clip codes to their range where it is narrower than the dtype."""
    ends = [call.args["quant_min"], call.args["quant_max"]]
    limits = torch.iinfo(dtype)
    if ends == [limits.min, limits.max]:
        return codes
    return call.emit("Clip", codes, *(call.scalar(end, dtype) for end in ends))


def _qparams(call: Call, *, leave_out: bool = False) -> tuple[int | None, ir.Value, ir.Value | None]:
    """Return axis, scale and zero point: a vector each along an axis, else scalars.

    Stored zero points along an axis are left out, if they may be, where all are 0.
    """
    axis, dtype = call.args.get("axis"), call.args["dtype"]
    if axis is None:
        _require_positive(call, call.args["scale"])
        return None, call.scalar(call.args["scale"], torch.float32), call.scalar(call.args["zero_point"], dtype)
    scales, zeros = call.args["scales"], call.args["zero_points"]
    _require_positive(call, scales)
    stored = call.stored(scales)
    scale = call.value(scales, torch.float32) if stored is None else call.constant("scale", stored.to(torch.float32))
    if zeros is None:
        size = call.example(scales).shape
        zero = (
            None if leave_out else call.constant("zero_point", torch.zeros([int(part) for part in size], dtype=dtype))
        )
        return axis, scale, zero
    stored = call.stored(zeros)
    if leave_out and stored is not None and not bool(stored.any()):
        return axis, scale, None
    zero_point = call.value(zeros, dtype) if stored is None else call.constant("zero_point", stored.to(dtype))
    return axis, scale, zero_point


def _require_positive(call: Call, scale: Any) -> None:
    stored = torch.tensor(scale) if isinstance(scale, float) else call.stored(scale)
    if stored is not None:
        rounded = stored.to(torch.float32)
        if not bool(((rounded > 0) & (rounded < math.inf)).all()):
            raise call.refuse("a scale that is no positive finite float32 number")
