"""What runs on x86 in integers, as rows with a column of runtimes. Measured: every row has kernel tests.

ONNX Runtime 1.32 takes most ops on codes and gives codes. oneDNN, of torch 2.13, called eagerly or by inductor's code,
multiplies: its convolutions and linears take codes, apply a function and add a tensor, and give codes or floats.
"""

from __future__ import annotations

import dataclasses
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
from quantizer_sdk.backends.x86 import checks
from quantizer_sdk.backends.x86.checks import only
from quantizer_sdk.backends.x86.entry import ALL, ONEDNN, ORT, Entry
from quantizer_sdk.backends.x86.target import Target
from quantizer_sdk.observers import PerTensor, PerToken

__all__ = ["ENTRIES", "rows_of"]

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Probabilities(Operand):
    """The result of QLinearSoftmax, which rounds 1/scale down to an integer: exact at 1/256 and off by 1 elsewhere."""

    def spec(self, config: QuantizationConfig) -> QuantizationSpecBase | None:
        """Return a fixed spec with scale 1/256 and zero point 0, where the config quantizes results at all."""
        return None if config.output_activation is None else FixedQParamsQuantizationSpec(torch.uint8, 2.0**-8, 0)


ROW_ACT = ACT.at_run_time(PerTensor(), PerToken())
CONV = Step(
    ops(
        *(aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding),
        *(aten.conv3d.default, aten.conv3d.padding),
    ),
    (ACT, WEIGHT, BIAS),
)
LINEAR = Step(ops(aten.linear.default), (ROW_ACT, WEIGHT, BIAS))
MATMUL = Step(ops(aten.matmul.default, aten.mm.default, aten.bmm.default), (ACT, ACT))
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
HARDSWISH = Step(ops(aten.hardswish.default, aten.hardswish_.default))
SILU = Step(ops(aten.silu.default, aten.silu_.default))
GELU = Step(ops(aten.gelu.default))
LEAKY_RELU = Step(ops(aten.leaky_relu.default, aten.leaky_relu_.default))
TANH = Step(ops(aten.tanh.default, aten.tanh_.default))
SIGMOID = Step(ops(aten.sigmoid.default, aten.sigmoid_.default))
PAD = Step(ops(aten.pad.default, aten.constant_pad_nd.default))
MOVE = Step(
    ops(
        *(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints),
        *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.unflatten.int),
        *(aten.permute.default, aten.transpose.int, aten.t.default, aten.contiguous.default, aten.clone.default),
    )
)
CAT = Step(ops(aten.cat.default, aten.concat.default, aten.concatenate.default))
EMBEDDING = Step(ops(aten.embedding.default), (WEIGHT,))
OUT = Operand(Role.OUT)

_EAGER = frozenset({Target.ONEDNN})
_Functions = tuple[tuple[str, Step, frozenset[Target]], ...]
_CONV_FUNCTIONS: _Functions = (
    ("relu", RELU, ALL),
    ("clamp", CLAMP, ALL),
    ("hardswish", HARDSWISH, ONEDNN),
    ("silu", SILU, ONEDNN),
)
_LINEAR_FUNCTIONS: _Functions = (
    ("relu", RELU, ALL),
    ("clamp", CLAMP, ORT | _EAGER),
    ("hardswish", HARDSWISH, _EAGER),
    ("silu", SILU, _EAGER),
    ("gelu", GELU, ONEDNN),
    ("leaky_relu", LEAKY_RELU, _EAGER),
    ("tanh", TANH, _EAGER),
    ("sigmoid", SIGMOID, _EAGER),
)
"""What kernels apply to a product, by runtime: inductor's compiler knows fewer than oneDNN."""


_FLAT = ((Target.INDUCTOR, checks.slides_over_two_axes),)


def _row(name: str, *steps: Step, extra: tuple[Check, ...] = (), output: Operand = OUT, share: bool = False) -> Row:
    return Row(name, steps, checks=(checks.codes_fit, *extra), output=output, share=share)


def _gemm(
    name: str,
    step: Step,
    functions: _Functions,
    *extra: Check,
    float_results: frozenset[Target],
    adding: frozenset[Target],
    float_addends: bool = False,
    checks_: tuple[tuple[Target, Check], ...] = (),
) -> tuple[Entry, ...]:
    """A gemm with the functions that its kernel applies, and with the tensor that oneDNN's adds before them."""
    by_calibration = (*extra, checks.static)
    added = (*by_calibration, only(step=1, alpha=1), checks.adds_one_of_its_shape)
    entries = (
        *(
            Entry(row=row, targets=adding, float_results=float_results, float_addends=float_addends)
            for row in (
                _row(f"{name}_add_relu", step, ADD, RELU, extra=added),
                _row(f"{name}_add", step, ADD, extra=added),
            )
        ),
        *(
            Entry(
                row=_row(f"{name}_{function}", step, follower, extra=by_calibration),
                targets=targets,
                float_results=float_results,
            )
            for function, follower, targets in functions
        ),
        Entry(row=_row(name, step, extra=extra), float_results=float_results),
    )
    return tuple(dataclasses.replace(entry, checks=checks_) for entry in entries)


def _clamped(name: str, step: Step, *extra: Check, before: tuple[Step, ...] = ()) -> tuple[Row, ...]:
    """An op alone and with the activations that its codes are clamped to."""
    return (
        _row(f"{name}_relu", *before, step, RELU, extra=extra),
        _row(f"{name}_clamp", *before, step, CLAMP, extra=extra),
        _row(name, *before, step, extra=extra),
    )


def _shared(name: str, step: Step, *extra: Check) -> Row:
    return _row(name, step, extra=extra, share=True)


def _on(targets: frozenset[Target], *rows: Row) -> tuple[Entry, ...]:
    return tuple(Entry(row=row, targets=targets, float_results=ONEDNN) for row in rows)


def _between_codes(*rows: Row) -> tuple[Entry, ...]:
    """What pays only where codes come in and go out."""
    return tuple(Entry(row=row, float_results=ONEDNN, between_codes=True) for row in rows)


def _asked_for(*rows: Row) -> tuple[Entry, ...]:
    """What oneDNN gains nothing from."""
    return tuple(Entry(row=row, float_results=ONEDNN, opt_in=ONEDNN) for row in rows)


ENTRIES: tuple[Entry, ...] = (
    *_on(ORT, *_clamped("pad_conv", CONV, checks.batched, checks.pads_image_with_zeros, before=(PAD,))),
    *_gemm("conv", CONV, _CONV_FUNCTIONS, checks.batched, float_results=ONEDNN, adding=ONEDNN, checks_=_FLAT),
    *_gemm("linear", LINEAR, _LINEAR_FUNCTIONS, float_results=ALL, adding=_EAGER, float_addends=True),
    *_on(ORT, *_clamped("matmul_weights", MATMUL_WEIGHTS, checks.matrices)),
    *_asked_for(*_clamped("matmul", MATMUL, checks.matrices)),
    *_between_codes(*_clamped("add", ADD, only(alpha=1))),
    *_between_codes(*_clamped("mul", MUL)),
    Entry(row=_row("embedding", EMBEDDING, extra=(checks.looks_up,)), float_results=ALL),
    *_on(
        ORT | _EAGER,
        _row("mean", Step(ops(aten.mean.dim)), extra=(checks.averages_image, only(dtype=None))),
        _row(
            "global_avg_pool",
            Step(ops(aten.adaptive_avg_pool2d.default)),
            extra=(checks.batched, only(output_size=[1, 1])),
        ),
    ),
    *_on(
        ORT | {Target.INDUCTOR},
        _row(
            "avg_pool",
            Step(ops(aten.avg_pool2d.default)),
            extra=(checks.batched, only(ceil_mode=False, divisor_override=None)),
        ),
    ),
    *_on(
        ORT,
        _row("sigmoid", SIGMOID),
        _row("leaky_relu", LEAKY_RELU),
        _row("softmax", Step(ops(aten.softmax.int)), extra=(only(dtype=None),), output=Probabilities(Role.OUT)),
    ),
    *_on(
        ALL,
        _shared("max_pool", Step(ops(aten.max_pool2d.default)), checks.batched, only(ceil_mode=False)),
        _shared("cat", CAT, checks.two_tensors),
        _shared("pad", PAD, checks.pads_with_zeros),
        _shared("slice", Step(ops(aten.slice.Tensor)), checks.slices_statically),
        _shared("move", MOVE, checks.one_open_size),
    ),
)
"""In order of priority."""


def rows_of(target: Target, *, quantize_results: bool, asked: frozenset[torch._ops.OpOverload]) -> tuple[Row, ...]:
    """Return the rows of one runtime.

    Args:
        target: The runtime.
        quantize_results: Whether results are quantized although its kernels give floats too.
        asked: The ops that a rule names, for entries that wait for one.
    """
    return tuple(
        entry.for_target(target, quantize_results=quantize_results) for entry in ENTRIES if entry.is_for(target, asked)
    )
