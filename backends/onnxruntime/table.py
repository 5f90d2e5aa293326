"""What ONNX Runtime 1.32 computes on uint8 codes on x86, as rows. Measured: every row has a kernel test."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quantizer_sdk import (
    ACT,
    BIAS,
    WEIGHT,
    Check,
    FixedQParamsQuantizationSpec,
    Operand,
    QuantizationConfig,
    QuantizationSpecBase,
    Role,
    Row,
    Step,
    ops,
)
from quantizer_sdk.backends.onnxruntime import checks
from quantizer_sdk.backends.onnxruntime.checks import only

__all__ = ["ROWS"]

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Probabilities(Operand):
    """The result of QLinearSoftmax, which rounds 1/scale down to an integer: exact at 1/256 and off by 1 elsewhere."""

    def spec(self, config: QuantizationConfig) -> QuantizationSpecBase | None:
        """Return a fixed spec with scale 1/256 and zero point 0, where the config quantizes results at all."""
        return None if config.output_activation is None else FixedQParamsQuantizationSpec(torch.uint8, 2.0**-8, 0)


CONV = Step(
    ops(
        *(aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding),
        *(aten.conv3d.default, aten.conv3d.padding),
    ),
    (ACT, WEIGHT, BIAS),
)
LINEAR = Step(ops(aten.linear.default), (ACT, WEIGHT, BIAS))
ADDMM = Step(ops(aten.addmm.default), (BIAS, ACT, WEIGHT.on_axis(1)))
MATMUL = Step(ops(aten.matmul.default, aten.mm.default, aten.bmm.default), (ACT, ACT))
MATMUL_WEIGHT = Step(MATMUL.targets, (ACT, WEIGHT.on_axis(1)))
MATMUL_WEIGHTS = Step(MATMUL.targets, (ACT, WEIGHT.per_tensor()))
ADD = Step(ops(aten.add.Tensor, aten.add_.Tensor), (ACT, ACT))
MUL = Step(ops(aten.mul.Tensor, aten.mul_.Tensor), (ACT, ACT))
RELU = Step(ops(aten.relu.default, aten.relu_.default))
CLAMP = Step(
    ops(
        *(aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default),
        *(aten.clamp.default, aten.clamp_.default, aten.clamp_min.default, aten.clamp_max.default),
    )
)
PAD = Step(ops(aten.pad.default, aten.constant_pad_nd.default))
MOVE = Step(
    ops(
        *(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints),
        *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.unflatten.int),
        *(aten.permute.default, aten.transpose.int, aten.t.default, aten.contiguous.default, aten.clone.default),
    )
)
CAT = Step(ops(aten.cat.default, aten.concat.default, aten.concatenate.default))
SIGMOID = Step(ops(aten.sigmoid.default, aten.sigmoid_.default))
LEAKY_RELU = Step(ops(aten.leaky_relu.default, aten.leaky_relu_.default))
GLOBAL_POOL = Step(ops(aten.adaptive_avg_pool2d.default))
OUT = Operand(Role.OUT)


def _row(name: str, step: Step, *extra: Check, output: Operand = OUT) -> Row:
    return Row(name, (step,), checks=(checks.codes_fit, *extra), output=output)


def _clamped(name: str, step: Step, *extra: Check, before: tuple[Step, ...] = ()) -> tuple[Row, ...]:
    """An op alone and with the activations that its codes are clamped to."""
    tests = (checks.codes_fit, *extra)
    return (
        Row(f"{name}_relu", (*before, step, RELU), checks=tests),
        Row(f"{name}_clamp", (*before, step, CLAMP), checks=tests),
        Row(name, (*before, step), checks=tests),
    )


def _shared(name: str, step: Step, *extra: Check) -> Row:
    return Row(name, (step,), share=True, checks=(checks.codes_fit, *extra))


ROWS: tuple[Row, ...] = (
    *_clamped("pad_conv", CONV, checks.batched, checks.pads_image_with_zeros, before=(PAD,)),
    *_clamped("conv", CONV, checks.batched),
    *_clamped("linear", LINEAR),
    *_clamped("addmm", ADDMM, only(alpha=1, beta=1), checks.bias_is_vector),
    *_clamped("matmul_weight", MATMUL_WEIGHT, checks.matrices, checks.weight_is_matrix),
    *_clamped("matmul_weights", MATMUL_WEIGHTS, checks.matrices),
    *_clamped("matmul", MATMUL, checks.matrices),
    *_clamped("add", ADD, only(alpha=1)),
    *_clamped("mul", MUL),
    _row("mean", Step(ops(aten.mean.dim)), checks.averages_image, only(dtype=None)),
    _row("global_avg_pool", GLOBAL_POOL, checks.batched, only(output_size=[1, 1])),
    _row("avg_pool", Step(ops(aten.avg_pool2d.default)), checks.batched, only(ceil_mode=False, divisor_override=None)),
    _row("sigmoid", SIGMOID),
    _row("leaky_relu", LEAKY_RELU),
    _row("softmax", Step(ops(aten.softmax.int)), only(dtype=None), output=Probabilities(Role.OUT)),
    _shared("max_pool", Step(ops(aten.max_pool2d.default)), checks.batched, only(ceil_mode=False)),
    _shared("cat", CAT, checks.two_tensors),
    _shared("slice", Step(ops(aten.slice.Tensor)), checks.slices_statically),
    _shared("move", MOVE, checks.one_open_size),
)
