"""Write a quantized model's arithmetic out in integers: what a kernel has to compute, op by op, without q/dq.

Requires a converted graph. Ensures: linear (static and dynamic), conv2d, add, mul, each also with relu, and max_pool2d
between quantized tensors compute on integer tensors; a quantize or dequantize per tensor or per channel that is left
is plain arithmetic.

Accumulators are exact integers. They are scaled in float64 and rounded half to even, so that the codes are those of the
exact real value, but for values within 1e-12 of a tie (torchao: truncated).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.operands import argument
from quantizer_sdk.passes.integer_tensor import Builder, IntegerTensor, Number
from quantizer_sdk.qdq import is_dequantize, is_quantize

__all__ = ["reference_representation"]

_ATEN = torch.ops.aten
_OPS = torch.ops.quantized_decomposed
_RELUS = frozenset({_ATEN.relu.default, _ATEN.relu_.default})


def reference_representation(model: GraphModule) -> None:
    """Rewrite every pattern that has an integer form, then all q/dq that is left."""
    builder = Builder(model.graph)
    for node in list(model.graph.nodes):
        if is_quantize(node):
            _rewrite_static(builder, node)
    for node in list(model.graph.nodes):
        if node.target is _ATEN.linear.default:
            _rewrite_dynamic_linear(builder, node)
    for node in list(model.graph.nodes):
        if is_quantize(node) or is_dequantize(node):
            _write_out(builder, node)


def _rewrite_static(builder: Builder, quantize: Node) -> None:
    """Replace op → quantize, or op → relu → quantize, by integer ops that yield the same codes."""
    if quantize.target is not _OPS.quantize_per_tensor.default:
        return
    last = quantize.all_input_nodes[0]
    op = last.all_input_nodes[0] if last.target in _RELUS else last
    form = _FORMS.get(op.target)
    if form is None or any(len(node.users) != 1 for node in {op, last}):
        return
    scale, zero_point, low, high, dtype = cast("tuple[float, int, int, int, torch.dtype]", quantize.args[1:])
    with builder.at(quantize, like=op):
        rounded = form(builder, op, scale)
        if rounded is None:
            return
        if last is not op:
            low = max(low, zero_point)
        codes = builder.to(builder.call(_ATEN.clamp.default, builder.add(rounded, zero_point), low, high), dtype)
    builder.replace(quantize, codes)


def _scaled(builder: Builder, accumulator: Node, scale: Number, extra: Node | None = None) -> Node:
    """Return accumulator · scale (+ extra) in float64, rounded half to even."""
    real = builder.multiply(builder.to(accumulator, torch.float64), scale)
    return builder.call(_ATEN.round.default, real if extra is None else builder.add(real, extra))


def _contract(builder: Builder, op: Node, out_scale: float) -> Node | None:
    """Return the rounded result of linear or conv2d in steps of `out_scale`."""
    x, weight = (IntegerTensor.of(argument(op, name)) for name in ("input", "weight"))
    if x is None or weight is None or x.axis is not None or weight.axis not in (None, 0):
        return None
    accumulator, bias = _accumulate(builder, op, x, weight)
    if bias is not None:
        bias = builder.multiply(builder.to(bias, torch.float64), 1 / out_scale)
    steps = builder.multiply(_per_output(builder, op, weight.steps(builder)), x.steps(builder))
    return _scaled(builder, accumulator, builder.multiply(steps, 1 / out_scale), bias)


def _accumulate(builder: Builder, op: Node, x: IntegerTensor, weight: IntegerTensor) -> tuple[Node, Node | None]:
    """Return the int32 accumulator of linear or conv2d, integer bias included, and a bias that is float."""
    bias = argument(op, "bias")
    codes = None if bias is None else IntegerTensor.of(bias)
    integer_bias = codes.codes if codes is not None and codes.zero_point == 0 else None
    rest = [argument(op, name) for name in ("stride", "padding", "dilation", "groups") if op.target in _CONVS]
    operands = [x.centred(builder), weight.centred(builder)]
    if op.target in _CONVS and set(rest[2]) != {1}:  # for which the CPU has no integer op; float64 is as exact
        operands = [builder.to(operand, torch.float64) for operand in operands]
        integer_bias = None if integer_bias is None else builder.to(integer_bias, torch.float64)
    accumulator = builder.call(op.target, *operands, integer_bias, *rest)
    if bias is None or integer_bias is not None:
        return accumulator, None
    return accumulator, _per_output(builder, op, bias)


def _per_output(builder: Builder, op: Node, numbers: Any) -> Any:
    """Lay one number for each output channel along the channel axis of the result."""
    if not isinstance(numbers, Node) or op.target not in _CONVS:
        return numbers
    return builder.call(_ATEN.reshape.default, numbers, [-1, 1, 1])


def _add(builder: Builder, op: Node, out_scale: float) -> Node | None:
    """Return the rounded sum in steps of `out_scale`."""
    operands = [IntegerTensor.of(argument(op, name)) for name in ("self", "other")]
    if any(x is None or x.axis is not None for x in operands) or argument(op, "alpha") != 1:
        return None
    real = [
        builder.multiply(
            builder.to(x.centred(builder), torch.float64), builder.multiply(x.steps(builder), 1 / out_scale)
        )
        for x in operands
        if x is not None
    ]
    return builder.call(_ATEN.round.default, builder.add(*real))


def _mul(builder: Builder, op: Node, out_scale: float) -> Node | None:
    """Return the rounded product in steps of `out_scale`."""
    a, b = (IntegerTensor.of(argument(op, name)) for name in ("self", "other"))
    if a is None or b is None or a.axis is not None or b.axis is not None:
        return None
    product = builder.call(_ATEN.mul.Tensor, a.centred(builder), b.centred(builder))
    return _scaled(
        builder, product, builder.multiply(builder.multiply(a.steps(builder), b.steps(builder)), 1 / out_scale)
    )


def _max_pool(builder: Builder, op: Node, out_scale: float) -> Node | None:
    """Return the rounded maximum in steps of `out_scale`: that of the codes, for order is kept."""
    x = IntegerTensor.of(argument(op, "self"))
    if x is None or x.axis is not None:
        return None
    pooled = builder.call(op.target, x.codes, *op.args[1:], **op.kwargs)
    pooled = dataclasses.replace(x, codes=pooled).centred(builder)
    return _scaled(builder, pooled, builder.multiply(x.steps(builder), 1 / out_scale))


_CONVS = frozenset({_ATEN.conv2d.default, _ATEN.conv2d.padding})
_FORMS: dict[Any, Callable[[Builder, Node, float], Node | None]] = {
    _ATEN.linear.default: _contract,
    **dict.fromkeys(_CONVS, _contract),
    _ATEN.add.Tensor: _add,
    _ATEN.add_.Tensor: _add,
    _ATEN.mul.Tensor: _mul,
    _ATEN.mul_.Tensor: _mul,
    _ATEN.max_pool2d.default: _max_pool,
}


def _rewrite_dynamic_linear(builder: Builder, op: Node) -> None:
    """Replace a linear layer on dynamically quantized input, whose result is float, by an integer one."""
    x, weight = (IntegerTensor.of(argument(op, name)) for name in ("input", "weight"))
    if x is None or weight is None or weight.axis not in (None, 0):
        return
    if x.axis is not None or not isinstance(x.scale, Node):
        return
    dtype = x.out_dtype
    with builder.at(op, like=op):
        accumulator, bias = _accumulate(builder, op, x, weight)
        steps = builder.multiply(x.steps(builder), weight.steps(builder))
        real = builder.multiply(builder.to(accumulator, torch.float64), steps)
        result = builder.to(real if bias is None else builder.add(real, bias), dtype)
    builder.replace(op, result)


def _write_out(builder: Builder, node: Node) -> None:
    """Replace a quantize or dequantize by the arithmetic that it stands for, in its own order and precision."""
    x = IntegerTensor.of(node)
    if x is None or node.target is _OPS.dequantize_per_token.default:
        return
    low, high, dtype = node.args[-3:]
    with builder.at(node, like=node):
        zero_point = x.laid_out(builder, x.zero_point, torch.int64)
        if is_quantize(node):
            real = builder.to(x.codes, torch.float32)  # what it quantizes stands where a dequantize has its codes
            inverse = x.laid_out(builder, builder.inverse(x.scale), torch.float32)
            steps = builder.call(_ATEN.round.default, builder.multiply(real, inverse))
            codes = builder.call(_ATEN.clamp.default, builder.add(steps, zero_point), low, high)
            result = builder.to(codes, dtype)
        else:
            wide = builder.to(x.codes, torch.int64 if x.axis is not None else x.out_dtype)
            result = builder.add(wide, zero_point, sign=-1)
            result = builder.multiply(result, x.laid_out(builder, x.scale, torch.float32))
            result = builder.to(result, x.out_dtype)
    builder.replace(node, result)
