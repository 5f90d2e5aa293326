"""Qparams that are computed from each run's data, in ONNX's standard operators, by the formulas that the ops have.

Scales are float32 here, as the formulas compute them; aten's float64 holds the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantizer_sdk.backends.onnxruntime.blocks import split

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["choose_per_block", "choose_per_tensor", "choose_per_token", "choose_symmetric", "choose_token_symmetric"]

_SMALL = 2.0**-10
"""Where the smallest scale lies below, the runtime's own op may leave it out: it then loses nothing, and gains."""


def choose_per_tensor(call: Call) -> tuple[ir.Value, ir.Value]:
    """DynamicQuantizeLinear where all 256 codes are used, for which the runtime has kernels; else the formula."""
    low_code, high_code = call.args["quant_min"], call.args["quant_max"]
    x = call.value(call.args["input"], torch.float32)
    if (low_code, high_code, call.args["dtype"]) == (0, 255, torch.uint8) and call.args["eps"] <= _SMALL:
        _, scale, zero_point = call.emits("DynamicQuantizeLinear", 3, x)
        return _scalars(call, scale, zero_point, torch.uint8)
    low, high = _range(call, x)
    span = call.emit("Sub", high, low)
    scale = _at_least(call, call.emit("Div", span, call.value(float(high_code - low_code))), call.args["eps"])
    steps = call.emit("Round", call.emit("Div", low, scale))
    zero_point = call.emit("Sub", call.value(float(low_code)), steps)
    ends = (call.value(float(low_code)), call.value(float(high_code)))
    return _scalars(call, scale, call.emit("Clip", zero_point, *ends), torch.float32)


def choose_symmetric(call: Call) -> tuple[ir.Value, ir.Value]:
    """The larger end of the range, by half the number of codes."""
    low, high = _range(call, call.value(call.args["input"], torch.float32))
    reach = call.emit("Max", call.emit("Neg", low), high)
    half = call.value((call.args["quant_max"] - call.args["quant_min"]) / 2)
    scale = _at_least(call, call.emit("Div", reach, half), call.args["eps"])
    middle = 128.0 if call.args["dtype"] is torch.uint8 else 0.0
    return _scalars(call, scale, call.emit("Identity", call.value(middle)), torch.float32)


def choose_token_symmetric(call: Call) -> tuple[ir.Value, ir.Value]:
    """The largest magnitude of each token by 127, at least 1e-5 before that."""
    magnitude = call.emit("Abs", call.value(call.args["input"], torch.float32))
    reach = call.emit("ReduceMax", magnitude, call.int64("axes", [-1]), keepdims=1)
    scale = call.emit("Div", _at_least(call, reach, 1e-5), call.value(127.0))
    return _declared(call, scale, call.emit("Mul", scale, call.value(0.0)))


def choose_per_token(call: Call) -> tuple[ir.Value, ir.Value]:
    """The affine qparams of each token's 256 codes; the end of the range that is farther off a code loses nothing."""
    x, axes = call.value(call.args["input"], torch.float32), call.int64("axes", [-1])
    zero = call.value(0.0)
    low = call.emit("Min", call.emit("ReduceMin", x, axes, keepdims=1), zero)
    high = call.emit("Max", call.emit("ReduceMax", x, axes, keepdims=1), zero)
    scale = call.emit("Div", call.emit("Sub", high, low), call.value(255.0))
    scale = _at_least(call, scale, torch.finfo(torch.float32).eps)
    at_low, at_high = call.emit("Div", low, scale), call.emit("Div", high, scale)
    zero_point = _nearer_end(call, at_low, at_high, -128.0, 127.0)
    ends = (call.value(-128.0), call.value(127.0))
    return _declared(call, scale, call.emit("Round", call.emit("Clip", zero_point, *ends)))


def choose_per_block(call: Call) -> tuple[ir.Value, ir.Value]:
    """The same for each block, by the inverse of the scale, as kernels do that quantize their operand themselves."""
    low_code, high_code = float(call.args["quant_min"]), float(call.args["quant_max"])
    blocks, axes = split(call, call.args["input"], call.args["block_size"])
    zero, over = call.value(0.0), call.int64("axes", axes)
    low = call.emit("Min", call.emit("ReduceMin", blocks, over, keepdims=0), zero)
    high = call.emit("Max", call.emit("ReduceMax", blocks, over, keepdims=0), zero)
    inverse = call.emit("Div", call.value(high_code - low_code), call.emit("Sub", high, low))
    inverse = call.emit("Where", call.emit("Equal", low, high), call.value(1.0), inverse)
    if call.args["eps"] > 0:
        inverse = call.emit("Min", inverse, call.value(1.0 / call.args["eps"]))
    at_low, at_high = call.emit("Mul", low, inverse), call.emit("Mul", high, inverse)
    zero_point = _nearer_end(call, at_low, at_high, low_code, high_code)
    zero_point = call.emit("Round", call.emit("Clip", zero_point, call.value(low_code), call.value(high_code)))
    return _declared(call, call.emit("Reciprocal", inverse), zero_point)


def _nearer_end(call: Call, at_low: ir.Value, at_high: ir.Value, low: float, high: float) -> ir.Value:
    """Return the zero point from the end of the range that asks for the larger one."""
    first, last = call.value(low), call.value(high)
    errors = call.emit("Add", call.emit("Add", first, at_low), call.emit("Add", last, at_high))
    chosen = call.emit("Greater", errors, call.value(0.0))
    return call.emit("Where", chosen, call.emit("Sub", first, at_low), call.emit("Sub", last, at_high))


def _range(call: Call, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the ends of the range of all elements, which holds 0."""
    zero = call.value(0.0)
    low, high = (call.emit(operator, x, keepdims=0) for operator in ("ReduceMin", "ReduceMax"))
    return call.emit("Min", low, zero), call.emit("Max", high, zero)


def _at_least(call: Call, scale: ir.Value, smallest: float) -> ir.Value:
    return call.emit("Max", scale, call.value(smallest))


def _scalars(call: Call, scale: ir.Value, zero_point: ir.Value, kind: torch.dtype) -> tuple[ir.Value, ir.Value]:
    """Give scalars the shape that aten says, one axis of one element; `Call.scalar` looks through that."""
    results = []
    for value, dtype in ((scale, torch.float32), (zero_point, kind)):
        value.dtype, value.shape = call.graph.dtype(dtype), call.graph.no_axes()
        results.append(call.emit("Reshape", value, call.int64("one", [1])))
    return _declared(call, results[0], results[1], kind)


def _declared(
    call: Call, scale: ir.Value, zero_point: ir.Value, kind: torch.dtype = torch.float32
) -> tuple[ir.Value, ir.Value]:
    """Give results the types that aten says; what takes them in the type that they were computed in looks through."""
    results = []
    for place, (value, dtype) in enumerate(((scale, torch.float32), (zero_point, kind))):
        value.dtype = call.graph.dtype(dtype)
        results.append(call.widen(value, call.node.meta["val"][place].dtype))
    return results[0], results[1]
