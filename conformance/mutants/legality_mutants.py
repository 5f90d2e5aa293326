"""Wrong quantizers whose dtypes, axes, schemes and biases no kernel of the profile takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from quantizer_sdk import (
    Backend,
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationSpec,
    QuantizationSpecBase,
)
from quantizer_sdk.conformance.mutants.altered import (
    Observers,
    activations,
    altered,
    choose,
    edges,
    parameters,
    replace_specs,
)
from quantizer_sdk.conformance.mutants.healthy import healthy, healthy_integer_bias
from quantizer_sdk.conformance.mutants.mutant import Mutant

__all__ = ["LEGALITY_MUTANTS"]

CONV = "aten.conv2d/s8.pc/generic/3x3"
CONV_PLAIN = "aten.conv2d/s8.pc/generic/dilated_nobias"
TRANSPOSED = "aten.conv_transpose2d.input/s8.pc/generic/nobias"
LINEAR = "aten.linear/s8.pc/generic/2d"
LINEAR_PLAIN = "aten.linear/s8.pc/generic/nobias"


def _specs(**changes: Any) -> Callable[[], Backend]:
    """Make a backend with other specs of activations."""
    return _changed(lambda spec, constant: spec if constant else dataclasses.replace(spec, **changes))


def _weight_specs(**changes: Any) -> Callable[[], Backend]:
    """Make a backend with other specs of constants."""
    return _changed(lambda spec, constant: dataclasses.replace(spec, **changes) if constant else spec)


def _changed(change: Callable[[QuantizationSpec, bool], QuantizationSpec]) -> Callable[[], Backend]:
    def annotate(model: GraphModule) -> None:
        replace_specs(model, lambda spec, const: change(spec, const) if isinstance(spec, QuantizationSpec) else spec)

    return lambda: altered(healthy(), annotate=annotate)


def _biases(change: Callable[[DerivedQuantizationSpec, Node], QuantizationSpecBase]) -> Callable[[], Backend]:
    """Make a backend with other specs of integer biases, given each and the op that adds it."""

    def annotate(model: GraphModule) -> None:
        for producer, node, annotation in edges(model):
            spec = annotation.input_qspec_map[producer]
            if isinstance(spec, DerivedQuantizationSpec):
                annotation.input_qspec_map[producer] = change(spec, node)

    return lambda: altered(healthy_integer_bias(), annotate=annotate)


def _derived(change: Callable[[Tensor], Tensor]) -> Callable[[], Backend]:
    """Make a backend whose integer biases have another scale, given the product of scales."""

    def changed(spec: DerivedQuantizationSpec, _node: Node) -> QuantizationSpecBase:
        def derive(observers: list[Any]) -> tuple[Tensor, Tensor]:
            scale, zero_point = spec.derive_qparams_fn(observers)
            return change(scale), zero_point

        return dataclasses.replace(spec, derive_qparams_fn=derive)

    return _biases(changed)


def _from_output(spec: DerivedQuantizationSpec, node: Node) -> QuantizationSpecBase:
    return dataclasses.replace(spec, derived_from=(node, spec.derived_from[1]))


def _per_tensor(spec: DerivedQuantizationSpec, _node: Node) -> QuantizationSpecBase:
    def derive(observers: list[Any]) -> tuple[Tensor, Tensor]:
        scale, zero_point = spec.derive_qparams_fn(observers)
        return scale.max().reshape(1), zero_point[:1]

    return dataclasses.replace(spec, derive_qparams_fn=derive, qscheme=torch.per_tensor_symmetric, ch_axis=None)


def _stale(_spec: DerivedQuantizationSpec, _node: Node) -> QuantizationSpecBase:
    return FixedQParamsQuantizationSpec(torch.int32, 1e-4, 0, -(2**31), 2**31 - 1)


def _int8(_spec: DerivedQuantizationSpec, _node: Node) -> QuantizationSpecBase:
    return QuantizationSpec(torch.int8, None, -128, 127, torch.per_tensor_symmetric)


def _coarse_float(model: GraphModule) -> None:
    """Round float biases to steps 4096 times as wide as the accumulator's."""
    for producer, _node, annotation in edges(model):
        spec = annotation.input_qspec_map[producer]
        if isinstance(spec, DerivedQuantizationSpec):
            widened = functools.partial(_widened, spec)
            annotation.input_qspec_map[producer] = dataclasses.replace(spec, derive_qparams_fn=widened)


def _widened(spec: DerivedQuantizationSpec, observers: list[Any]) -> tuple[Tensor, Tensor]:
    scale, zero_point = spec.derive_qparams_fn(observers)
    return scale * 4096, zero_point


def _observed(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], which: Callable[[Observers], list[Any]]
) -> Callable[[], Backend]:
    def observe(_model: GraphModule, observers: Observers) -> None:
        for observer in which(observers):
            choose(observer, change)

    return lambda: altered(healthy(), observe=observe)


def _mutant(
    name: str, harm: str, make: Callable[[], Backend], *cases: str, killers: str = "C2", integer: bool = False
) -> Mutant:
    return Mutant(
        name=name,
        harm=harm,
        make=make,
        killers=tuple(killers.split()),
        cases=cases or (CONV, LINEAR),
        sound=healthy_integer_bias if integer else healthy,
    )


LEGALITY_MUTANTS = (
    _mutant(
        "unsigned_activations",
        "The model fails to load, or runs in float, on kernels that take int8 alone.",
        _specs(dtype=torch.uint8, quant_min=0, quant_max=255),
    ),
    _mutant(
        "sixteen_bit_activations",
        "The model fails to load: no kernel takes int16.",
        _specs(dtype=torch.int16, quant_min=-32768, quant_max=32767),
    ),
    _mutant(
        "unsigned_weights",
        "Kernels take the weights' codes for signed ones.",
        _weight_specs(dtype=torch.uint8, quant_min=0, quant_max=255),
    ),
    _mutant(
        "affine_weights",
        "Kernels ignore the weights' zero points, so that each result is off by a multiple of its input's sum.",
        _weight_specs(qscheme=torch.per_channel_affine),
    ),
    _mutant(
        "weight_zero_point_1",
        "Kernels that know no zero point of weights read every weight one step too large.",
        _observed(lambda scale, zero: (scale, zero + 1), parameters),
    ),
    _mutant(
        "activations_per_channel",
        "No kernel takes a scale for each channel of an activation: the op runs in float.",
        _specs(qscheme=torch.per_channel_affine, ch_axis=1, observer_or_fake_quant_ctr=None),
        "aten.add/s8.pc/generic/4d",
        killers="C1",
    ),
    _mutant(
        "axis_of_input_channels",
        "Kernels apply the scales of input channels to output channels.",
        _weight_specs(ch_axis=1),
        CONV_PLAIN,
    ),
    _mutant(
        "transposed_axis_0",
        "In a transposed convolution axis 0 holds input channels, so that outputs get foreign scales.",
        _weight_specs(ch_axis=0),
        TRANSPOSED,
    ),
    _mutant(
        "linear_axis_1",
        "Outputs of a linear layer get scales of input features.",
        _weight_specs(ch_axis=1),
        LINEAR_PLAIN,
    ),
    _mutant(
        "bias_scale_doubled",
        "A kernel that adds the bias as it is adds half of it.",
        _derived(lambda scale: scale * 2),
        integer=True,
    ),
    _mutant(
        "bias_scale_a_percent_off",
        "A kernel that adds the bias as it is adds 1 % too little.",
        _derived(lambda scale: scale * 1.01),
        integer=True,
    ),
    _mutant(
        "bias_scale_from_output",
        "The bias has steps of output times weight scale, and the kernel adds it in others.",
        _biases(_from_output),
        integer=True,
    ),
    _mutant(
        "bias_scale_of_one_channel",
        "All channels' biases have the largest channel's steps, and kernels add them in their own.",
        _biases(_per_tensor),
        integer=True,
    ),
    _mutant(
        "bias_scale_stale",
        "The bias keeps the scale of an earlier calibration.",
        _biases(_stale),
        integer=True,
    ),
    _mutant("bias_in_8_bits", "Kernels add 32 bits of bias and find 8.", _biases(_int8), integer=True),
    _mutant(
        "bias_rounded_coarsely",
        "Biases lose 12 bits, and every result of a channel is off by the same amount.",
        lambda: altered(healthy(), annotate=_coarse_float),
        killers="R2",
    ),
    _mutant(
        "zero_point_out_of_range",
        "The code of 0.0 is none of the dtype's, and wraps or saturates when the runtime loads it.",
        _observed(lambda scale, zero: (scale, zero - 300), lambda observers: activations(observers)[-1:]),
        killers="C2 R7",
    ),
    _mutant(
        "ratio_out_of_range",
        "The runtime refuses to requantize by such a ratio, at load or not before the first run.",
        _observed(lambda scale, zero: (scale * 2.0**-16, zero), lambda observers: activations(observers)[-1:]),
        "aten.add/s8.pc/generic/4d",
    ),
)
