"""What XNNPACK computes on int8 codes in ExecuTorch 1.5, as rows. Measured: every row has a kernel test."""

from __future__ import annotations

import torch

from quantizer_sdk import ACT, BIAS, WEIGHT, Check, Row, Step, ops
from quantizer_sdk.backends.xnnpack import checks
from quantizer_sdk.observers import PerBlock, PerToken

__all__ = ["ROWS"]

aten = torch.ops.aten

ROW_ACT = ACT.at_run_time(PerToken())
SAMPLE_ACT = ACT.at_run_time(PerBlock((1, -1, -1, -1)))
PIXEL_ACT = ACT.at_run_time(PerBlock((1, -1, 1, 1)))

CONV = Step(
    ops(aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding),
    (SAMPLE_ACT, WEIGHT, BIAS),
)
POINTWISE = Step(ops(aten.conv2d.default, aten.conv2d.padding), (PIXEL_ACT, WEIGHT, BIAS))
CONV_TRANSPOSE = Step(
    ops(aten.conv_transpose1d.default, aten.conv_transpose2d.input), (SAMPLE_ACT, WEIGHT.on_axis(1), BIAS)
)
CONV_TRANSPOSE_GROUPED = Step(CONV_TRANSPOSE.targets, (ACT, WEIGHT.per_tensor(), BIAS))
LINEAR = Step(ops(aten.linear.default), (ROW_ACT, WEIGHT, BIAS))
RELU = Step(ops(aten.relu.default, aten.relu_.default))
RELU6 = Step(ops(aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default))
CLAMP = Step(ops(aten.clamp.default, aten.clamp_.default, aten.clamp_min.default, aten.clamp_max.default))
ADD = Step(ops(aten.add.Tensor, aten.add_.Tensor), (ACT, ACT))
SUB = Step(ops(aten.sub.Tensor, aten.sub_.Tensor), (ACT, ACT))
MUL = Step(ops(aten.mul.Tensor, aten.mul_.Tensor), (ACT, ACT))
TABLE = Step(
    ops(
        aten.sigmoid.default,
        aten.sigmoid_.default,
        aten.tanh.default,
        aten.tanh_.default,
        aten.gelu.default,
        aten.hardswish.default,
        aten.hardswish_.default,
        aten.leaky_relu.default,
        aten.leaky_relu_.default,
        aten.elu.default,
        aten.elu_.default,
        aten.neg.default,
        aten.abs.default,
        aten.square.default,
        aten.sqrt.default,
        aten.rsqrt.default,
        aten.exp.default,
        aten.log.default,
        aten.sin.default,
        aten.cos.default,
        aten.ceil.default,
        aten.floor.default,
    )
)
MEAN = Step(ops(aten.mean.dim))
GLOBAL_POOL = Step(ops(aten.adaptive_avg_pool2d.default))
MAX_POOL = Step(ops(aten.max_pool2d.default))
CAT = Step(ops(aten.cat.default, aten.concat.default, aten.concatenate.default))
PAD = Step(ops(aten.pad.default, aten.constant_pad_nd.default))
SLICE = Step(ops(aten.slice.Tensor))
MOVE = Step(
    ops(
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.flatten.using_ints,
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.contiguous.default,
        aten.clone.default,
    )
)


def _gemm(name: str, step: Step, *extra: Check, before: tuple[Step, ...] = ()) -> tuple[Row, ...]:
    """A gemm alone and with the activations that its kernel clamps to."""
    tests = (checks.keeps_codes_int8, *extra)
    return (
        Row(f"{name}_relu", (*before, step, RELU), checks=tests),
        Row(f"{name}_relu6", (*before, step, RELU6), checks=tests),
        Row(name, (*before, step), checks=tests),
    )


def _own(name: str, *steps: Step, checks_: tuple[Check, ...] = ()) -> Row:
    return Row(name, steps, checks=(checks.keeps_codes_int8, *checks_))


def _shared(name: str, step: Step, *extra: Check) -> Row:
    return Row(name, (step,), share=True, checks=(checks.keeps_codes_int8, *extra))


ROWS: tuple[Row, ...] = (
    *_gemm("pad_conv", CONV, checks.pads_with_zeros, checks.pads_space, before=(PAD,)),
    *_gemm("pointwise_conv", POINTWISE, checks.quantizes_each_pixel, checks.samples_of_channels),
    *_gemm("conv", CONV, checks.samples_of_channels),
    *_gemm("conv_transpose", CONV_TRANSPOSE, checks.transposed_ungrouped, checks.samples_of_channels),
    *_gemm("conv_transpose_grouped", CONV_TRANSPOSE_GROUPED),
    *_gemm("linear", LINEAR),
    _own("add_relu", ADD, RELU, checks_=(checks.scale_one, checks.two_real_operands)),
    _own("add", ADD, checks_=(checks.scale_one, checks.two_real_operands)),
    _own("sub", SUB, checks_=(checks.scale_one, checks.two_real_operands)),
    _own("mul", MUL, checks_=(checks.two_real_operands,)),
    _own("table", TABLE, checks_=(checks.function_itself,)),  # fp32 in the file, fused into 256 codes at load
    _own("mean", MEAN, checks_=(checks.averages_last_two,)),
    _own("global_avg_pool", GLOBAL_POOL, checks_=(checks.pool_is_global,)),
    _own("relu", RELU),
    _own("relu6", RELU6),
    _own("clamp", CLAMP),
    _shared("max_pool", MAX_POOL, checks.stride_within_kernel),
    _shared("cat", CAT, checks.joins_at_most_five),
    Row(
        "pad",
        (PAD,),
        share=True,
        checks=(checks.keeps_codes_int8, checks.pads_with_zeros),
        remark="not before a convolution: XNNPACK pads in float, between two exact conversions",
    ),
    _shared("slice", SLICE, checks.slices_by_one),
    _shared("move", MOVE, checks.one_axis_permuted),
)
