"""Elementwise ops as ONNX nodes, with torch's type promotion where ONNX has none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = [
    "binary",
    "cast",
    "clamp",
    "compare",
    "elu",
    "expm1",
    "floor_divide",
    "fmod",
    "glu",
    "hardsigmoid",
    "log1p",
    "logical",
    "masked_fill",
    "mish",
    "power",
    "prelu",
    "remainder",
    "rsqrt",
    "same",
    "scalar_minus",
    "silu",
    "softplus",
    "truncate",
    "unary",
    "where",
]


def binary(call: Call, operator: str) -> ir.Value:
    """An op of two tensors, or of a tensor and a number, in the type of the result."""
    dtype = call.example().dtype
    call.require(rounding_mode=None)
    other = call.value(call.args["other"], dtype)
    if call.args.get("alpha", 1) != 1:
        other = call.emit("Mul", other, call.value(call.args["alpha"], dtype))
    return call.emit(operator, call.value(call.args["self"], dtype), other)


def scalar_minus(call: Call) -> ir.Value:
    """The second operand minus the first."""
    call.require(alpha=1)
    dtype = call.example().dtype
    return call.emit("Sub", call.value(call.args["other"], dtype), call.value(call.args["self"], dtype))


def floor_divide(call: Call) -> ir.Value:
    """Division that rounds as its mode says; ONNX's rounds integers toward zero."""
    mode = call.args.get("rounding_mode", "floor")
    if mode is None:
        return binary(call, "Div")
    dtype = call.example().dtype
    operands = [call.value(call.args[name], dtype) for name in ("self", "other")]
    if dtype.is_floating_point:
        quotient = call.emit("Div", *operands)
        if mode == "floor":
            return call.emit("Floor", quotient)
        return call.emit("Mul", call.emit("Sign", quotient), call.emit("Floor", call.emit("Abs", quotient)))
    if mode == "floor":
        rest = call.emit("Mod", *operands)
        return call.emit("Div", call.emit("Sub", operands[0], rest), operands[1])
    return call.emit("Div", *operands)


def remainder(call: Call) -> ir.Value:
    """The rest with the divisor's sign."""
    dtype = call.example().dtype
    operands = [call.value(call.args[name], dtype) for name in ("self", "other")]
    if not dtype.is_floating_point:
        return call.emit("Mod", *operands)
    whole = call.emit("Floor", call.emit("Div", *operands))
    return call.emit("Sub", operands[0], call.emit("Mul", whole, operands[1]))


def fmod(call: Call) -> ir.Value:
    """The rest with the dividend's sign."""
    dtype = call.example().dtype
    return call.emit("Mod", *(call.value(call.args[name], dtype) for name in ("self", "other")), fmod=1)


def power(call: Call) -> ir.Value:
    """Pow; a square is a product, which is faster and exact."""
    dtype = call.example().dtype
    base, exponent = call.args["self"], call.args["exponent"]
    x = call.value(base, dtype)
    if exponent == 2:
        return call.emit("Mul", x, x)
    if exponent == 0.5:
        return call.emit("Sqrt", x)
    return call.emit("Pow", x, call.value(exponent, dtype))


def compare(call: Call, operator: str, *, negated: bool = False) -> ir.Value:
    """A comparison, in the type that both operands are promoted to."""
    operands = [call.args["self"], call.args["other"]]
    examples = [item.meta["val"] if isinstance(item, Node) else item for item in operands]
    numbers: list[Any] = [item if isinstance(item, (torch.Tensor, int, float)) else 0 for item in examples]
    dtype = torch.result_type(numbers[0], numbers[1])
    if dtype is torch.bool and operator != "Equal":
        dtype = torch.int32
    result = call.emit(operator, *(call.value(item, dtype) for item in operands))
    return call.emit("Not", result) if negated else result


def logical(call: Call, operator: str) -> ir.Value:
    """A logical op on truth values; on integers, where the op is a bitwise one, on their bits."""
    operands = [call.args[name] for name in ("self", "other") if name in call.args]
    bitwise = "bitwise" in str(call.node.target) or "__" in str(call.node.target)
    dtype = call.example().dtype
    if bitwise and dtype is not torch.bool:
        return call.emit(f"Bitwise{operator}", *(call.value(item, dtype) for item in operands))
    return call.emit(operator, *(call.value(item, torch.bool) for item in operands))


def where(call: Call) -> ir.Value:
    """Where, in the type of the result."""
    dtype = call.example().dtype
    choices = (call.args["self"], call.args["other"])
    return call.emit("Where", call.value(call.args["condition"]), *(call.value(item, dtype) for item in choices))


def masked_fill(call: Call) -> ir.Value:
    """Where, with a number."""
    dtype = call.example().dtype
    filling = call.scalar(call.args["value"], dtype)
    return call.emit("Where", call.value(call.args["mask"]), filling, call.value(call.args["self"]))


def cast(call: Call) -> ir.Value:
    """Cast, where the type changes at all."""
    return call.value(call.operand, call.example().dtype)


def unary(call: Call, operator: str, attributes: Mapping[str, str] = MappingProxyType({})) -> ir.Value:
    """An op of one tensor; `attributes` maps ONNX's names to the schema's."""
    named: dict[str, Any] = {key: call.args[name] for key, name in attributes.items()}
    floating = call.example().dtype.is_floating_point
    return call.emit(operator, call.value(call.operand, call.example().dtype if floating else None), **named)


def clamp(call: Call, low: str | float = "min", high: str | float | None = "max") -> ir.Value:
    """Clip; bounds are numbers, tensors without axes, or names of arguments that hold them."""
    bounds = [call.args.get(bound) if isinstance(bound, str) else bound for bound in (low, high)]
    dtype = call.example().dtype
    x = call.value(call.args["self"], dtype)
    if any(isinstance(bound, Node) for bound in bounds):
        for operator, bound in zip(("Max", "Min"), bounds, strict=True):
            x = x if bound is None else call.emit(operator, x, call.value(bound, dtype))
        return x
    return call.emit("Clip", x, *(None if bound is None else call.scalar(bound, dtype) for bound in bounds))


def elu(call: Call) -> ir.Value:
    """Elu; written out where the exponent is scaled, as in celu."""
    x, alpha = call.value(call.args["self"]), float(call.args["alpha"])
    scale, inner = float(call.args["scale"]), float(call.args["input_scale"])
    if inner == 1:
        result = call.emit("Elu", x, alpha=alpha)
    else:
        power = call.emit("Exp", call.emit("Mul", call.emit("Min", x, call.value(0.0)), call.value(inner)))
        below = call.emit("Mul", call.emit("Sub", power, call.value(1.0)), call.value(alpha))
        result = call.emit("Add", call.emit("Relu", x), below)
    return result if scale == 1 else call.emit("Mul", result, call.value(scale))


def silu(call: Call) -> ir.Value:
    """X * Sigmoid(x)."""
    x = call.value(call.args["self"])
    return call.emit("Mul", x, call.emit("Sigmoid", x))


def mish(call: Call) -> ir.Value:
    """Mish."""
    return call.emit("Mish", call.value(call.args["self"]))


def hardsigmoid(call: Call) -> ir.Value:
    """HardSigmoid."""
    return call.emit("HardSigmoid", call.value(call.args["self"]), alpha=1 / 6, beta=0.5)


def softplus(call: Call) -> ir.Value:
    """Softplus, of beta times x by beta; far to the right the number itself."""
    x, beta = call.value(call.args["self"]), float(call.args["beta"])
    if beta == 1:
        return call.emit("Softplus", x)
    return call.emit("Div", call.emit("Softplus", call.emit("Mul", x, call.value(beta))), call.value(beta))


def prelu(call: Call) -> ir.Value:
    """PRelu, the slopes beside the axis of channels."""
    rank, slopes = call.example(call.args["self"]).dim(), call.value(call.args["weight"])
    if call.example(call.args["weight"]).numel() > 1:
        slopes = call.emit("Reshape", slopes, call.int64("shape", [-1] + [1] * (rank - 2)))
    return call.emit("PRelu", call.value(call.args["self"]), slopes)


def glu(call: Call) -> ir.Value:
    """The first half by the Sigmoid of the second."""
    halves = call.emits("Split", 2, call.value(call.args["self"]), axis=call.args["dim"], num_outputs=2)
    return call.emit("Mul", halves[0], call.emit("Sigmoid", halves[1]))


def rsqrt(call: Call) -> ir.Value:
    """1 / Sqrt."""
    return call.emit("Reciprocal", call.emit("Sqrt", call.value(call.args["self"])))


def log1p(call: Call, base: float | None = None) -> ir.Value:
    """Log of x + 1, or of x to a base."""
    x = call.value(call.args["self"])
    if base is None:
        return call.emit("Log", call.emit("Add", x, call.value(1.0)))
    return call.emit("Div", call.emit("Log", x), call.value(math.log(base)))


def expm1(call: Call) -> ir.Value:
    """Exp less 1."""
    return call.emit("Sub", call.emit("Exp", call.value(call.args["self"])), call.value(1.0))


def truncate(call: Call) -> ir.Value:
    """Round toward zero."""
    x = call.value(call.args["self"])
    return call.emit("Mul", call.emit("Sign", x), call.emit("Floor", call.emit("Abs", x)))


def same(call: Call) -> ir.Value:
    """Nothing: the op copies its operand."""
    call.require(train=False, training=False)
    return call.value(call.operand)
