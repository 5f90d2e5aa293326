"""From aten and `quantized_decomposed` ops to ONNX nodes, as one table; what is not in it is decomposed first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed, which has no public home

from quantizer_sdk.backends.onnxruntime import blocks, elementwise, reductions, run_time_qparams, shapes, windows
from quantizer_sdk.backends.onnxruntime.attention import attention
from quantizer_sdk.backends.onnxruntime.embeddings import EXECUTORCH_EMBEDDINGS, embedding, executorch_embedding
from quantizer_sdk.backends.onnxruntime.gemms import addmm, linear, matmul
from quantizer_sdk.backends.onnxruntime.qdq_nodes import dequantize, quantize
from quantizer_sdk.backends.onnxruntime.sizes import SIZE_OPERATORS, size, size_operator

if TYPE_CHECKING:
    from quantizer_sdk.backends.onnxruntime.call import Call, Results

__all__ = ["TRANSLATIONS", "Translation", "translation_of"]

Translation: TypeAlias = "Callable[[Call], Results]"

aten = torch.ops.aten
qd = torch.ops.quantized_decomposed
own = torch.ops.quantizer_sdk


def _named(function: Callable[..., Results], *arguments: Any, **keywords: Any) -> Translation:
    return functools.partial(_call_with, function, arguments, keywords)


def _call_with(
    function: Callable[..., Results], arguments: Sequence[Any], keywords: Mapping[str, Any], call: Call
) -> Results:
    return function(call, *arguments, **keywords)


def _ops(operators: Mapping[str, Sequence[Any]], function: Callable[..., Results]) -> list[tuple[Translation, Any]]:
    """Rows for functions that take the name of the ONNX operator."""
    return [(_named(function, operator), tuple(targets)) for operator, targets in operators.items()]


_QUANTIZED: tuple[tuple[Translation, Sequence[Any]], ...] = (
    (quantize, (qd.quantize_per_tensor.default, qd.quantize_per_tensor.tensor, qd.quantize_per_channel.default)),
    (
        dequantize,
        (qd.dequantize_per_tensor.default, qd.dequantize_per_tensor.tensor, qd.dequantize_per_channel.default),
    ),
    (quantize, (qd.quantize_per_tensor.tensor2,)),
    (dequantize, (qd.dequantize_per_tensor.tensor2,)),
    (run_time_qparams.choose_per_tensor, (qd.choose_qparams.tensor,)),
    (run_time_qparams.choose_symmetric, (qd.choose_qparams_symmetric.tensor,)),
    (run_time_qparams.choose_token_symmetric, (qd.choose_qparams_per_token.default,)),
    (
        run_time_qparams.choose_per_token,
        (qd.choose_qparams_per_token_asymmetric.default, qd._choose_qparams_per_token_asymmetric_impl.default),
    ),
    (run_time_qparams.choose_per_block, (own.choose_qparams_per_block.default,)),
    (blocks.quantize_per_token, (qd.quantize_per_token.default,)),
    (blocks.dequantize_per_token, (qd.dequantize_per_token.default,)),
    (blocks.quantize_per_group, (qd.quantize_per_channel_group.default,)),
    (blocks.dequantize_per_group, (qd.dequantize_per_channel_group.default,)),
    (blocks.quantize_per_block, (own.quantize_per_block.default,)),
    (blocks.dequantize_per_block, (own.dequantize_per_block.default,)),
    (blocks.fake_quantize_per_channel, (qd.fake_quant_per_channel.default,)),
    (elementwise.cast, (qd.convert_element_type.no_fuse,)),
)
_COMPUTING: tuple[tuple[Translation, Sequence[Any]], ...] = (
    (windows.conv, (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)),
    (windows.conv, (aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)),
    (
        windows.conv_transpose,
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
    ),
    (windows.convolution, (aten.convolution.default,)),
    (linear, (aten.linear.default,)),
    (addmm, (aten.addmm.default,)),
    (matmul, (aten.matmul.default, aten.mm.default, aten.bmm.default)),
    (attention, (aten.scaled_dot_product_attention.default,)),
    *[
        (_named(windows.pool, operator, rank), (getattr(aten, f"{name}_pool{rank}d").default,))
        for operator, name in (("MaxPool", "max"), ("AveragePool", "avg"))
        for rank in (1, 2, 3)
    ],
    *[
        (_named(windows.adaptive_average, rank), (getattr(aten, f"adaptive_avg_pool{rank}d").default,))
        for rank in (1, 2, 3)
    ],
    *[
        (_named(windows.adaptive_max, rank), (getattr(aten, f"adaptive_max_pool{rank}d").default,))
        for rank in (1, 2, 3)
    ],
    (reductions.batch_norm, (aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default)),
    (reductions.layer_norm, (aten.layer_norm.default,)),
    (reductions.instance_norm, (aten.instance_norm.default,)),
    (reductions.group_norm, (aten.group_norm.default,)),
    (reductions.rms_norm, (aten.rms_norm.default,)),
    (reductions.softmax, (aten.softmax.int, aten._softmax.default)),
    (_named(reductions.softmax, "LogSoftmax"), (aten.log_softmax.int, aten._log_softmax.default)),
    (reductions.mean, (aten.mean.dim, aten.mean.default)),
    (reductions.variance, (aten.var.correction, aten.var.dim, aten.var.default)),
    (reductions.variance, (aten.std.correction, aten.std.dim, aten.std.default)),
    (reductions.norm, (aten.linalg_vector_norm.default,)),
    (reductions.cumsum, (aten.cumsum.default,)),
    (reductions.topk, (aten.topk.default,)),
    (reductions.sort, (aten.sort.default,)),
    *_ops(
        {
            "ReduceSum": (aten.sum.dim_IntList, aten.sum.default),
            "ReduceMax": (aten.amax.default, aten.max.default),
            "ReduceMin": (aten.amin.default, aten.min.default),
            "ReduceProd": (aten.prod.default, aten.prod.dim_int),
            "ReduceLogSumExp": (aten.logsumexp.default,),
        },
        reductions.reduce,
    ),
    *_ops({"Max": (aten.max.dim,), "Min": (aten.min.dim,)}, reductions.extreme),
    *_ops({"ArgMax": (aten.argmax.default,), "ArgMin": (aten.argmin.default,)}, reductions.arg_reduce),
    *_ops(
        {
            "ReduceMax": (aten.any.default, aten.any.dim, aten.any.dims),
            "ReduceMin": (aten.all.default, aten.all.dim, aten.all.dims),
        },
        reductions.truth,
    ),
)
_ELEMENTWISE: tuple[tuple[Translation, Sequence[Any]], ...] = (
    *_ops(
        {
            "Add": (aten.add.Tensor, aten.add.Scalar),
            "Sub": (aten.sub.Tensor, aten.sub.Scalar),
            "Mul": (aten.mul.Tensor, aten.mul.Scalar),
            "Div": (aten.div.Tensor, aten.div.Scalar, aten.true_divide.Tensor),
            "Max": (aten.maximum.default, aten.max.other),
            "Min": (aten.minimum.default, aten.min.other),
        },
        elementwise.binary,
    ),
    (elementwise.scalar_minus, (aten.rsub.Scalar, aten.rsub.Tensor)),
    (elementwise.floor_divide, (aten.div.Tensor_mode, aten.div.Scalar_mode, aten.floor_divide.default)),
    (elementwise.fmod, (aten.fmod.Tensor, aten.fmod.Scalar)),
    (elementwise.remainder, (aten.remainder.Tensor, aten.remainder.Scalar)),
    (elementwise.power, (aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)),
    *_ops(
        {
            "Equal": (aten.eq.Tensor, aten.eq.Scalar),
            "Less": (aten.lt.Tensor, aten.lt.Scalar),
            "LessOrEqual": (aten.le.Tensor, aten.le.Scalar),
            "Greater": (aten.gt.Tensor, aten.gt.Scalar),
            "GreaterOrEqual": (aten.ge.Tensor, aten.ge.Scalar),
        },
        elementwise.compare,
    ),
    (_named(elementwise.compare, "Equal", negated=True), (aten.ne.Tensor, aten.ne.Scalar)),
    *_ops(
        {
            "And": (aten.logical_and.default, aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.__and__.Tensor),
            "Or": (aten.logical_or.default, aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.__or__.Tensor),
            "Xor": (aten.logical_xor.default, aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar),
            "Not": (aten.logical_not.default, aten.bitwise_not.default),
        },
        elementwise.logical,
    ),
    (elementwise.where, (aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)),
    (elementwise.masked_fill, (aten.masked_fill.Scalar, aten.masked_fill.Tensor)),
    *_ops(
        {
            "Relu": (aten.relu.default,),
            "Sigmoid": (aten.sigmoid.default,),
            "Tanh": (aten.tanh.default,),
            "Erf": (aten.erf.default,),
            "Exp": (aten.exp.default,),
            "Log": (aten.log.default,),
            "Sqrt": (aten.sqrt.default,),
            "Neg": (aten.neg.default,),
            "Abs": (aten.abs.default,),
            "Sign": (aten.sign.default,),
            "Floor": (aten.floor.default,),
            "Ceil": (aten.ceil.default,),
            "Round": (aten.round.default,),
            "Sin": (aten.sin.default,),
            "Cos": (aten.cos.default,),
            "Tan": (aten.tan.default,),
            "Asin": (aten.asin.default,),
            "Acos": (aten.acos.default,),
            "Atan": (aten.atan.default,),
            "Sinh": (aten.sinh.default,),
            "Cosh": (aten.cosh.default,),
            "Asinh": (aten.asinh.default,),
            "Acosh": (aten.acosh.default,),
            "Atanh": (aten.atanh.default,),
            "Reciprocal": (aten.reciprocal.default,),
            "IsNaN": (aten.isnan.default,),
            "IsInf": (aten.isinf.default,),
            "HardSwish": (aten.hardswish.default,),
        },
        elementwise.unary,
    ),
    (_named(elementwise.unary, "LeakyRelu", {"alpha": "negative_slope"}), (aten.leaky_relu.default,)),
    (_named(elementwise.unary, "Gelu", {"approximate": "approximate"}), (aten.gelu.default,)),
    (_named(elementwise.clamp, 0.0, 6.0), (aten.relu6.default,)),
    (_named(elementwise.clamp, "min_val", "max_val"), (aten.hardtanh.default,)),
    (elementwise.clamp, (aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)),
    (elementwise.clamp, (aten.clamp.Tensor, aten.clamp_min.Tensor, aten.clamp_max.Tensor)),
    (elementwise.elu, (aten.elu.default,)),
    (elementwise.silu, (aten.silu.default,)),
    (elementwise.mish, (aten.mish.default,)),
    (elementwise.hardsigmoid, (aten.hardsigmoid.default,)),
    (elementwise.softplus, (aten.softplus.default,)),
    (elementwise.prelu, (aten.prelu.default,)),
    (elementwise.glu, (aten.glu.default,)),
    (elementwise.rsqrt, (aten.rsqrt.default,)),
    (elementwise.expm1, (aten.expm1.default,)),
    (elementwise.truncate, (aten.trunc.default,)),
    (elementwise.log1p, (aten.log1p.default,)),
    (_named(elementwise.log1p, 2.0), (aten.log2.default,)),
    (_named(elementwise.log1p, 10.0), (aten.log10.default,)),
    (
        elementwise.cast,
        (
            *(aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten._to_copy.default),
            *(aten.type_as.default, torch.ops.prims.convert_element_type.default),
        ),
    ),
    (
        elementwise.same,
        (
            *(aten.clone.default, aten.contiguous.default, aten.dropout.default, aten.detach.default),
            *(aten.alias.default, aten.lift_fresh_copy.default, aten.feature_dropout.default),
        ),
    ),
)
_MOVING: tuple[tuple[Translation, Sequence[Any]], ...] = (
    (shapes.cat, (aten.cat.default, aten.concat.default, aten.concatenate.default)),
    (shapes.stack, (aten.stack.default,)),
    (shapes.pad, (aten.pad.default, aten.constant_pad_nd.default)),
    (
        shapes.reshape,
        (
            *(aten.view.default, aten.reshape.default, aten._unsafe_view.default),
            *(aten.flatten.using_ints, aten.unflatten.int, aten.view_as.default, aten.reshape_as.default),
        ),
    ),
    (shapes.squeeze, (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)),
    (shapes.unsqueeze, (aten.unsqueeze.default,)),
    (
        shapes.permute,
        (aten.permute.default, aten.transpose.int, aten.t.default, aten.numpy_T.default, aten.swapaxes.default),
    ),
    (shapes.slice_, (aten.slice.Tensor,)),
    (shapes.select, (aten.select.int,)),
    (shapes.split, (aten.split.Tensor,)),
    (shapes.split_into, (aten.split_with_sizes.default, aten.split.sizes)),
    (shapes.split_evenly, (aten.chunk.default, aten.tensor_split.sections)),
    (shapes.unbind, (aten.unbind.int,)),
    (shapes.expand, (aten.expand.default, aten.expand_as.default)),
    (shapes.repeat, (aten.repeat.default, aten.tile.default)),
    (shapes.flip, (aten.flip.default,)),
    (embedding, (aten.embedding.default,)),
    (_named(shapes.gather, "Gather"), (aten.index_select.default,)),
    (_named(shapes.gather, "GatherElements"), (aten.gather.default,)),
    (shapes.index, (aten.index.Tensor,)),
    (shapes.scatter, (aten.scatter.src,)),
    (shapes.arange, (aten.arange.default, aten.arange.start, aten.arange.start_step)),
    (shapes.filled, (aten.full.default, aten.full_like.default, aten.new_full.default)),
    (_named(shapes.filled, 0), (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)),
    (_named(shapes.filled, 1), (aten.ones.default, aten.ones_like.default, aten.new_ones.default)),
    (_named(shapes.filled, "s"), (aten.scalar_tensor.default,)),
    (_named(shapes.triangle, upper=False), (aten.tril.default,)),
    (_named(shapes.triangle, upper=True), (aten.triu.default,)),
    (shapes.pixel_shuffle, (aten.pixel_shuffle.default,)),
    (_named(shapes.resize, "nearest"), (aten.upsample_nearest1d.default, aten.upsample_nearest2d.default)),
    (_named(shapes.resize, "nearest"), (aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec)),
    (_named(shapes.resize, "linear"), (aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec)),
    (_named(shapes.resize, "linear"), (aten.upsample_linear1d.default, aten.upsample_bilinear2d.default)),
    (_named(shapes.resize, "cubic"), (aten.upsample_bicubic2d.vec,)),
    (size, (aten.sym_size.int,)),
    (size_operator, tuple(SIZE_OPERATORS)),
)
_ROWS = (*_QUANTIZED, *_COMPUTING, *_ELEMENTWISE, *_MOVING)
TRANSLATIONS: Mapping[Any, Translation] = MappingProxyType({op: translate for translate, row in _ROWS for op in row})


def translation_of(target: Any) -> Translation | None:
    """Return the translation of an op, by its name where another package registers it; None where there is none."""
    if target in TRANSLATIONS or not isinstance(target, torch._ops.OpOverload):
        return TRANSLATIONS.get(target)
    name = str(target.name())  # type: ignore[no-untyped-call]  # torch has no types for it
    return _named(executorch_embedding, EXECUTORCH_EMBEDDINGS[name]) if name in EXECUTORCH_EMBEDDINGS else None
