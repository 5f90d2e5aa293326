"""From aten and `quantized_decomposed` ops to ONNX nodes, as one table; what is not in it cannot be lowered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from quantizer_sdk.backends.onnxruntime.forms import reshape_target
from quantizer_sdk.backends.onnxruntime.qdq_nodes import dequantize, quantize
from quantizer_sdk.backends.onnxruntime.windows import conv, conv_transpose, global_pool, pool

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["TRANSLATIONS", "Translation"]

Translation: TypeAlias = "Callable[[Call], ir.Value]"

aten = torch.ops.aten
qd = torch.ops.quantized_decomposed


def _linear(call: Call) -> ir.Value:
    """Gemm of a matrix; MatMul and Add for other ranks, which only float linears have after `flatten_codes`."""
    x, weight, bias = call.value(call.args["input"]), call.value(call.args["weight"]), call.optional("bias")
    if call.example(call.args["input"]).dim() == 2:
        return call.emit("Gemm", x, weight, bias, transB=1)
    product = call.emit("MatMul", x, call.emit("Transpose", weight, perm=[1, 0]))
    return product if bias is None else call.emit("Add", product, bias)


def _addmm(call: Call) -> ir.Value:
    """Gemm."""
    matrices = (call.value(call.args["mat1"]), call.value(call.args["mat2"]), call.value(call.args["self"]))
    return call.emit("Gemm", *matrices, alpha=float(call.args["alpha"]), beta=float(call.args["beta"]))


def _matmul(call: Call) -> ir.Value:
    other = call.args["mat2"] if "mat2" in call.args else call.args["other"]
    return call.emit("MatMul", call.value(call.args["self"]), call.value(other))


def _binary(call: Call, operator: str) -> ir.Value:
    """An elementwise op of two tensors, or of a tensor and a number."""
    other = call.value(call.args["other"])
    if call.args.get("alpha", 1) != 1:
        other = call.emit("Mul", other, call.value(float(call.args["alpha"])))
    return call.emit(operator, call.value(call.args["self"]), other)


def _unary(call: Call, operator: str, attributes: Mapping[str, str] = MappingProxyType({})) -> ir.Value:
    """An elementwise op; `attributes` maps ONNX's names to the schema's."""
    named = {key: call.args[name] for key, name in attributes.items()}
    operand = call.args["self"] if "self" in call.args else call.args["input"]
    return call.emit(operator, call.value(operand), **named)


def _clamp(call: Call, low: str | float = "min", high: str | float | None = "max") -> ir.Value:
    """Clip; bounds are numbers, or names of arguments."""
    bounds = [call.args.get(bound) if isinstance(bound, str) else bound for bound in (low, high)]
    ends = [None if bound is None else call.value(float(bound)) for bound in bounds]
    return call.emit("Clip", call.value(call.args["self"]), *ends)


def _elu(call: Call) -> ir.Value:
    call.require(scale=1, input_scale=1)
    return call.emit("Elu", call.value(call.args["self"]), alpha=float(call.args["alpha"]))


def _silu(call: Call) -> ir.Value:
    x = call.value(call.args["self"])
    return call.emit("Mul", x, call.emit("Sigmoid", x))


def _hardsigmoid(call: Call) -> ir.Value:
    return call.emit("HardSigmoid", call.value(call.args["self"]), alpha=1 / 6, beta=0.5)


def _softmax(call: Call) -> ir.Value:
    call.require(dtype=None)
    return call.emit("Softmax", call.value(call.args["self"]), axis=call.args["dim"])


def _batch_norm(call: Call) -> ir.Value:
    """BatchNormalization; the functional form of aten's op has two more results, which nothing uses."""
    call.require(training=False)
    channels = call.tensor("running_mean")
    scale = call.optional("weight") or call.constant("weight", torch.ones_like(channels))
    shift = call.optional("bias") or call.constant("bias", torch.zeros_like(channels))
    statistics = (call.value(call.args["running_mean"]), call.value(call.args["running_var"]))
    return call.emit(
        "BatchNormalization", call.value(call.args["input"]), scale, shift, *statistics, epsilon=call.args["eps"]
    )


def _layer_norm(call: Call) -> ir.Value:
    shape = call.integers("normalized_shape")
    scale = call.optional("weight") or call.constant("weight", torch.ones(shape))
    operands = (call.value(call.args["input"]), scale, call.optional("bias"))
    return call.emit("LayerNormalization", *operands, axis=-len(shape), epsilon=call.args["eps"])


def _mean(call: Call) -> ir.Value:
    """GlobalAveragePool over all of an image's axes, which has an integer kernel; else ReduceMean."""
    call.require(dtype=None)
    rank = call.example(call.args["self"]).dim()
    dims = sorted(dim % rank for dim in call.args["dim"] or range(rank))
    x = call.value(call.args["self"])
    if rank > 2 and call.args["keepdim"] and dims == list(range(2, rank)):
        return call.emit("GlobalAveragePool", x)
    return call.emit("ReduceMean", x, call.int64("axes", dims), keepdims=int(call.args["keepdim"]))


def _cat(call: Call) -> ir.Value:
    return call.emit("Concat", *(call.value(tensor) for tensor in call.args["tensors"]), axis=call.args["dim"])


def _pad(call: Call) -> ir.Value:
    """Pad with a number; aten names the last axis first."""
    call.require(mode="constant")
    rank = call.example(call.args["self"]).dim()
    amounts = call.integers("pad")
    amounts = amounts + [0] * (2 * rank - len(amounts))
    pads = call.int64("pads", [*amounts[-2::-2], *amounts[::-2]])
    return call.emit("Pad", call.value(call.args["self"]), pads, call.value(float(call.args["value"] or 0.0)))


def _reshape(call: Call) -> ir.Value:
    """Reshape to the shape of the result, whatever op asked for it."""
    shape = reshape_target(call.node)
    if shape is None:
        raise call.refuse(f"a result of shape {tuple(call.example().shape)}; expected at most one dynamic size")
    operand = call.args["self"] if "self" in call.args else call.args["input"]
    keeps_zero = 1 if 0 in shape else None  # else a size of 0 means that of the operand
    return call.emit("Reshape", call.value(operand), call.int64("shape", shape), allowzero=keeps_zero)


def _permute(call: Call) -> ir.Value:
    """Transpose."""
    rank = call.example(call.args["self"]).dim()
    order = list(range(rank))
    if "dims" in call.args:
        order = [dim % rank for dim in call.integers("dims")]
    elif rank > 1:
        first, second = (call.args.get(name, default) % rank for name, default in (("dim0", 0), ("dim1", 1)))
        order[first], order[second] = second, first
    return call.emit("Transpose", call.value(call.args["self"]), perm=order)


def _slice(call: Call) -> ir.Value:
    """Slice."""
    ends = {"start": 0, "end": 2**63 - 1}
    call.args.update({name: number for name, number in ends.items() if call.args[name] is None})
    operands = [call.int64(name, call.integers(name)) for name in ("start", "end", "dim", "step")]
    return call.emit("Slice", call.value(call.args["self"]), *operands)


def _select(call: Call) -> ir.Value:
    """Gather of one index."""
    index = call.constant("index", torch.tensor(call.integers("index")[0], dtype=torch.int64))
    return call.emit("Gather", call.value(call.args["self"]), index, axis=call.args["dim"])


def _same(call: Call) -> ir.Value:
    """Nothing: the op copies its operand."""
    call.require(train=False)
    return call.value(call.args["self"] if "self" in call.args else call.args["input"])


def _named(function: Callable[..., ir.Value], *arguments: Any) -> Translation:
    return functools.partial(_call_with, function, arguments)


def _call_with(function: Callable[..., ir.Value], arguments: Sequence[Any], call: Call) -> ir.Value:
    return function(call, *arguments)


_ROWS: tuple[tuple[Translation, tuple[Any, ...]], ...] = (
    (quantize, (qd.quantize_per_tensor.default, qd.quantize_per_channel.default)),
    (dequantize, (qd.dequantize_per_tensor.default, qd.dequantize_per_channel.default)),
    (conv, (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)),
    (conv, (aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)),
    (conv_transpose, (aten.conv_transpose1d.default, aten.conv_transpose2d.input)),
    (_linear, (aten.linear.default,)),
    (_addmm, (aten.addmm.default,)),
    (_matmul, (aten.matmul.default, aten.mm.default, aten.bmm.default)),
    (_named(_binary, "Add"), (aten.add.Tensor,)),
    (_named(_binary, "Sub"), (aten.sub.Tensor,)),
    (_named(_binary, "Mul"), (aten.mul.Tensor,)),
    (_named(_binary, "Div"), (aten.div.Tensor,)),
    (_named(_unary, "Relu"), (aten.relu.default,)),
    (_named(_unary, "Sigmoid"), (aten.sigmoid.default,)),
    (_named(_unary, "Tanh"), (aten.tanh.default,)),
    (_named(_unary, "Erf"), (aten.erf.default,)),
    (_named(_unary, "Exp"), (aten.exp.default,)),
    (_named(_unary, "Sqrt"), (aten.sqrt.default,)),
    (_named(_unary, "Neg"), (aten.neg.default,)),
    (_named(_unary, "HardSwish"), (aten.hardswish.default,)),
    (_named(_unary, "LeakyRelu", {"alpha": "negative_slope"}), (aten.leaky_relu.default,)),
    (_named(_unary, "Gelu", {"approximate": "approximate"}), (aten.gelu.default,)),
    (_named(_clamp, 0.0, 6.0), (aten.relu6.default,)),
    (_named(_clamp, "min_val", "max_val"), (aten.hardtanh.default,)),
    (_clamp, (aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)),
    (_elu, (aten.elu.default,)),
    (_silu, (aten.silu.default,)),
    (_hardsigmoid, (aten.hardsigmoid.default,)),
    (_softmax, (aten.softmax.int,)),
    (_batch_norm, (aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default)),
    (_layer_norm, (aten.layer_norm.default,)),
    (_named(pool, "MaxPool", 1), (aten.max_pool1d.default,)),
    (_named(pool, "MaxPool", 2), (aten.max_pool2d.default,)),
    (_named(pool, "AveragePool", 1), (aten.avg_pool1d.default,)),
    (_named(pool, "AveragePool", 2), (aten.avg_pool2d.default,)),
    (global_pool, (aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default)),
    (_mean, (aten.mean.dim,)),
    (_cat, (aten.cat.default, aten.concat.default, aten.concatenate.default)),
    (_pad, (aten.pad.default, aten.constant_pad_nd.default)),
    (_reshape, (aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints)),
    (_reshape, (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.unflatten.int)),
    (_permute, (aten.permute.default, aten.transpose.int, aten.t.default)),
    (_slice, (aten.slice.Tensor,)),
    (_select, (aten.select.int,)),
    (
        _same,
        (aten.clone.default, aten.contiguous.default, aten.dropout.default, aten.detach.default),
    ),
)
TRANSLATIONS: Mapping[Any, Translation] = MappingProxyType({op: translate for translate, row in _ROWS for op in row})
