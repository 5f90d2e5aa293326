"""Wrong quantizers of gemms that quantize their activation at run time, and of weights of few bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch.fx import GraphModule

from quantizer_sdk import Backend, QuantizationSpec, QuantizationSpecBase
from quantizer_sdk.conformance.mutants.altered import altered, annotated, replace_specs
from quantizer_sdk.conformance.mutants.healthy import healthy
from quantizer_sdk.conformance.mutants.mutant import Mutant
from quantizer_sdk.observers import MinMaxObserver, PerChannelMinMaxObserver, PerGroup, PlaceholderObserver

__all__ = ["DYNAMIC_QUANTIZER_MUTANTS"]

LINEAR = "aten.linear/d8.pc/generic/2d"
UNEQUAL = "aten.linear/d8.pc/rows_unequal/2d"
GROUPS = "aten.linear/d8.w4.g32/generic/k64"


def _specs(
    change: Callable[[QuantizationSpec], QuantizationSpecBase | None], *, weights: bool
) -> Callable[[], Backend]:
    """Return what makes a backend whose quantizer asks for something else of weights, or of activations."""

    def changed(spec: QuantizationSpecBase, constant: bool) -> QuantizationSpecBase | None:
        return change(spec) if constant is weights and isinstance(spec, QuantizationSpec) else spec

    return lambda: altered(healthy(), annotate=lambda model: replace_specs(model, changed))


def _result_quantized(model: GraphModule) -> None:
    """Quantize results too, by ranges from calibration."""
    for _node, annotation in annotated(model):
        annotation.output_qspec = QuantizationSpec(
            torch.int8, MinMaxObserver, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine
        )


_STATIC = QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_affine)
_ONE_SCALE = QuantizationSpec(
    torch.int8, PlaceholderObserver.with_args(eps=0.0), -128, 127, torch.per_tensor_affine, is_dynamic=True
)


def _few_codes(spec: QuantizationSpec) -> QuantizationSpec:
    return dataclasses.replace(
        spec, observer_or_fake_quant_ctr=PerChannelMinMaxObserver, quant_min=-8, quant_max=7, ch_axis=0
    )


def _unrounded_groups(spec: QuantizationSpec) -> QuantizationSpec:
    observer = MinMaxObserver.with_args(granularity=PerGroup(32))
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=observer)


def _mutant(name: str, harm: str, make: Callable[[], Backend], killers: str, *cases: str) -> Mutant:
    return Mutant(name=name, harm=harm, make=make, killers=tuple(killers.split()), cases=cases)


DYNAMIC_QUANTIZER_MUTANTS = (
    _mutant(
        "dynamic_graph_of_one_scale",
        "The graph promises one scale for the tensor; kernels choose one for each row, and results differ by percents.",
        _specs(lambda _spec: _ONE_SCALE, weights=False),
        "C2 R2 R6",
        LINEAR,
        UNEQUAL,
    ),
    _mutant(
        "static_for_dynamic",
        "Activations have the ranges of calibration, whatever each run's data.",
        _specs(lambda _spec: _STATIC, weights=False),
        "C1",
        LINEAR,
    ),
    _mutant(
        "dynamic_weight_left_float",
        "The weight stays float, and so does the gemm.",
        _specs(lambda _spec: None, weights=True),
        "C1",
        LINEAR,
    ),
    _mutant(
        "dynamic_result_quantized",
        "The result is rounded to 8 bits by a range from calibration, for nothing.",
        lambda: altered(healthy(), annotate=_result_quantized),
        "C1",
        LINEAR,
    ),
    _mutant(
        "dynamic_weights_of_four_bits",
        "Weights have 16 codes in the place of 255, and results a tenth of their precision.",
        _specs(_few_codes, weights=True),
        "C2 R2",
        LINEAR,
    ),
    _mutant(
        "group_scales_not_rounded",
        "The runtime rounds the scales of groups, and results are off by a thousandth.",
        _specs(_unrounded_groups, weights=True),
        "C2",
        GROUPS,
    ),
)
"""Each wrong in one thing."""
