"""Wrong quantizers that choose wrong ranges: scales, zero points, code ranges."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from quantizer_sdk import (
    Backend,
    FixedQParamsQuantizationSpec,
    QuantizationSpec,
    QuantizationSpecBase,
    SharedQuantizationSpec,
)
from quantizer_sdk.conformance.mutants.altered import (
    Observers,
    activations,
    altered,
    annotated,
    choose,
    parameters,
    replace_specs,
)
from quantizer_sdk.conformance.mutants.healthy import healthy
from quantizer_sdk.conformance.mutants.mutant import Mutant

__all__ = ["RANGE_MUTANTS"]

_Chosen = tuple[Tensor, Tensor]

CONV = "aten.conv2d/s8.pc/generic/3x3"
LINEAR = "aten.linear/s8.pc/generic/2d"
RELU = "aten.relu/s8.pc/generic/4d"
UNEQUAL = "aten.conv2d/s8.pc/unequal/3x3"
DRIFTING = "aten.relu/s8.pc/drifting/4d"
DRIFTING_CONV = "aten.conv2d/s8.pc/drifting/3x3"


def _chosen(
    change: Callable[[Tensor, Tensor], _Chosen], which: Callable[[Observers], list[Any]] = activations
) -> Callable[[], Backend]:
    """Make a backend whose observers choose other qparams."""

    def observe(_model: GraphModule, observers: Observers) -> None:
        for observer in which(observers):
            choose(observer, change)

    return lambda: altered(healthy(), observe=observe)


def _last(observers: Observers) -> list[Any]:
    return activations(observers)[-1:]


def _specs(change: Callable[[QuantizationSpec, bool], QuantizationSpecBase]) -> Callable[[], Backend]:
    """Make a backend with other specs; those that are shared or derived follow."""

    def annotate(model: GraphModule) -> None:
        replace_specs(model, lambda spec, const: change(spec, const) if isinstance(spec, QuantizationSpec) else spec)

    return lambda: altered(healthy(), annotate=annotate)


def _narrow(low: int, high: int, *, constant: bool) -> Callable[[], Backend]:
    """Make a backend that uses fewer codes."""
    return _specs(
        lambda spec, const: dataclasses.replace(spec, quant_min=low, quant_max=high) if const is constant else spec
    )


def _symmetric(spec: QuantizationSpec, constant: bool) -> QuantizationSpec:
    return spec if constant else dataclasses.replace(spec, qscheme=torch.per_tensor_symmetric)


def _scaled(factor: float) -> Callable[[Tensor, Tensor], _Chosen]:
    return lambda scale, zero_point: (scale * factor, zero_point)


def _floored(floor: float) -> Callable[[Tensor, Tensor], _Chosen]:
    return lambda scale, zero_point: (scale.clamp(min=floor), zero_point)


def _swap(_model: GraphModule, observers: Observers) -> None:
    """Let the first and the last activation have the qparams that the other's observer chooses."""
    first, last = activations(observers)[0], activations(observers)[-1]
    first.calculate_qparams, last.calculate_qparams = last.calculate_qparams, first.calculate_qparams


def _seeing(change: Callable[[Tensor, int], Tensor | None]) -> Callable[[], Backend]:
    """Make a backend whose activation observers see something else than what comes: (tensor, number of the batch)."""

    def observe(_model: GraphModule, observers: Observers) -> None:
        for observer in activations(observers):
            _deceive(observer, change)

    return lambda: altered(healthy(), observe=observe)


def _deceive(observer: Any, change: Callable[[Tensor, int], Tensor | None]) -> None:
    original, batches = observer.observe, iter(range(1_000_000))

    def deceived(x: Tensor) -> None:
        seen = change(x, next(batches))
        if seen is not None:
            original(seen)

    observer.observe = deceived


def _forgetting(_model: GraphModule, observers: Observers) -> None:
    """Let observers start anew with each batch."""
    for observer in activations(observers):
        fresh = {name: buffer.clone() for name, buffer in observer.named_buffers()}
        observer.observe = functools.partial(_observe_anew, observer, observer.observe, fresh)


def _observe_anew(
    observer: torch.nn.Module, original: Callable[[Tensor], None], fresh: dict[str, Tensor], x: Tensor
) -> None:
    for name, buffer in fresh.items():
        setattr(observer, name, buffer.clone())
    original(x)


def _fix_outputs(model: GraphModule) -> None:
    """Give every result the qparams of a sigmoid."""
    fixed = FixedQParamsQuantizationSpec(torch.int8, 1 / 256, -128, -128, 127)
    for _node, annotation in annotated(model):
        if annotation.output_qspec is not None and not isinstance(annotation.output_qspec, SharedQuantizationSpec):
            annotation.output_qspec = fixed


def _without_zero(observer: Any) -> None:
    def chosen() -> _Chosen:
        low, high = observer.min_val + 0.5 * (observer.max_val - observer.min_val), observer.max_val
        scale = ((high - low) / 255).reshape(1)
        return scale, (-128 - torch.round(low / scale)).to(torch.int32)

    observer.calculate_qparams = chosen


def _exclude_zero(_model: GraphModule, observers: Observers) -> None:
    """Let the results' ranges be the upper half of what was seen, whether 0 is in it or not."""
    _without_zero(_last(observers)[0])


def _mutant(name: str, harm: str, make: Callable[[], Backend], killers: str, *cases: str) -> Mutant:
    return Mutant(name=name, harm=harm, make=make, killers=tuple(killers.split()), cases=cases or (CONV, LINEAR))


RANGE_MUTANTS = (
    _mutant("scales_doubled", "Activations lose a bit: half the codes are never used.", _chosen(_scaled(2.0)), "R2"),
    _mutant("scales_halved", "Everything in the outer half of a range saturates.", _chosen(_scaled(0.5)), "R2"),
    _mutant(
        "output_range_halved",
        "The largest results, often the winning class, saturate.",
        _chosen(_scaled(0.5), _last),
        "R2",
    ),
    _mutant(
        "output_range_quadrupled", "Results lose two bits, however good the kernel.", _chosen(_scaled(4.0), _last), "R2"
    ),
    _mutant(
        "weight_scales_halved", "The largest weights of each channel are cut.", _chosen(_scaled(0.5), parameters), "R2"
    ),
    _mutant(
        "weight_scales_doubled",
        "Weights lose a bit, which shows in no result of a small model.",
        _chosen(_scaled(2.0), parameters),
        "R2",
    ),
    _mutant(
        "zero_point_off_by_32",
        "A range sits beside the data: an eighth of the codes is wasted below, and the top saturates.",
        _chosen(lambda scale, zero: (scale, (zero + 32).clamp(-128, 127)), _last),
        "R2",
    ),
    _mutant("seven_bits", "Half of the promised codes are not there.", _narrow(-64, 63, constant=False), "R2"),
    _mutant("six_bits", "A quarter of the promised codes is there.", _narrow(-32, 31, constant=False), "R2"),
    _mutant("four_bit_weights", "Weights have 15 codes where 255 were promised.", _narrow(-7, 7, constant=True), "R2"),
    _mutant(
        "symmetric_activations",
        "Behind a relu half of the codes stand for numbers that never come.",
        _specs(_symmetric),
        "R2",
        RELU,
        "aten.conv2d+aten.relu/s8.pc/generic/3x3",
    ),
    _mutant(
        "observers_swapped",
        "Input and result have each other's range.",
        lambda: altered(healthy(), observe=_swap),
        "R2",
        "aten.mul/s8.pc/generic/4d",
    ),
    _mutant(
        "output_fixed_at_1_256",
        "All results beyond 1.0 saturate; with a tolerance of 0.1 on normalized data nobody notices.",
        lambda: altered(healthy(), annotate=_fix_outputs),
        "R2 R4",
    ),
    _mutant("negatives_ignored", "Negative activations become 0.", _seeing(lambda x, _batch: x.clamp(min=0.0)), "R2"),
    _mutant(
        "first_batch_only",
        "What only later calibration batches show saturates.",
        _seeing(lambda x, batch: None if batch else x),
        "R2",
        DRIFTING_CONV,
    ),
    _mutant(
        "last_batch_only",
        "What only earlier calibration batches showed saturates.",
        lambda: altered(healthy(), observe=_forgetting),
        "R2",
        DRIFTING,
        DRIFTING_CONV,
    ),
    _mutant(
        "percentile_too_tight",
        "A tenth of all values saturates.",
        _seeing(lambda x, _batch: x.clamp(float(x.quantile(0.05)), float(x.quantile(0.95)))),
        "R2",
    ),
    _mutant(
        "coarse_eps",
        "Small weights and activations are rounded away.",
        _chosen(_floored(2.0**-4), lambda observers: [*activations(observers), *parameters(observers)]),
        "R2 R4",
    ),
    _mutant(
        "powers_of_two_twice",
        "Scales are rounded up to a power of two, and then once more: up to two bits are lost.",
        _chosen(lambda scale, zero: (2.0 ** (torch.log2(scale).ceil() + 1), zero)),
        "R2",
    ),
    _mutant(
        "one_scale_for_all_channels",
        "Channels with small weights vanish though each has a scale of its own on paper.",
        _chosen(lambda scale, zero: (scale.max().expand_as(scale), zero), parameters),
        "R2",
        UNEQUAL,
    ),
    _mutant(
        "neighbours_channel_scale",
        "Each channel is rounded with the scale of its neighbour, and saturates or vanishes.",
        _chosen(lambda scale, zero: (scale.roll(1), zero), parameters),
        "R2",
        UNEQUAL,
    ),
    _mutant(
        "first_channel_has_no_scale",
        "Scales are off by one channel and the first stands twice, so that the order of channels matters.",
        _chosen(lambda scale, zero: (torch.cat([scale[:1], scale[:-1]]), zero), parameters),
        "R5",
        CONV,
    ),
    _mutant(
        "range_without_zero",
        "0.0, and with it every padding, has no code.",
        lambda: altered(healthy(), observe=_exclude_zero),
        "C2 R7",
    ),
    _mutant(
        "denormal_scale",
        "The reciprocal of the scale is infinite in float32, so that 0.0 becomes NaN.",
        _chosen(lambda scale, zero: (torch.full_like(scale, 1e-42), zero), _last),
        "R3",
    ),
)
