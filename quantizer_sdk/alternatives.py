"""Configs that differ from a given one in one way that may raise accuracy, whatever the backend."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from quantizer_sdk.granularity import PerTensor
from quantizer_sdk.observers import MinMaxObserver, PerChannelMinMaxObserver, PlaceholderObserver
from quantizer_sdk.range_choice import OBSERVERS, arguments_of, observer_of, with_activations, with_range_by
from quantizer_sdk.spec import SYMMETRIC_SCHEMES, QuantizationSpec, granularity_of
from quantizer_sdk.table import QuantizationConfig

__all__ = ["alternative_configs"]

_WIDER = {torch.int8: torch.int16, torch.uint8: torch.uint16}
_RANGES = {"min-max range": "min-max", "MSE range": "MSE", "99.99 % range": "percentile 99.99"}


def alternative_configs(config: QuantizationConfig) -> dict[str, QuantizationConfig]:
    """Return configs with another observer, 16-bit activations, activations quantized at run time, better weights.

    Configs for training have none.
    """
    if config.is_qat:
        return {}
    found = {}
    weight = config.weight
    if isinstance(weight, QuantizationSpec):
        if isinstance(granularity_of(weight), PerTensor) and weight.qscheme is not None:
            found["per-channel weights"] = dataclasses.replace(config, weight=_per_channel(weight))
        if weight.dtype is torch.int8 and (weight.quant_min or -128) > -127 and (weight.quant_max or 127) < 127:
            found["8-bit weights"] = dataclasses.replace(
                config, weight=dataclasses.replace(weight, quant_min=-127, quant_max=127)
            )
    activation = config.input_activation
    if not isinstance(activation, QuantizationSpec) or activation.is_dynamic:
        return found
    for name, observer in ((name, OBSERVERS[key]) for name, key in _RANGES.items()):
        if observer.constructor is not observer_of(activation):
            found[name] = with_activations(config, _of_specs(functools.partial(with_range_by, observer=observer)))
    if activation.dtype in _WIDER:
        found["16-bit activations"] = with_activations(config, _of_specs(_widened))
    at_run_time = dataclasses.replace(
        activation, is_dynamic=True, observer_or_fake_quant_ctr=PlaceholderObserver.with_args(eps=0.0)
    )
    found["activations of each run"] = QuantizationConfig(at_run_time, None, weight, None)
    return found


def _of_specs(change: Callable[[QuantizationSpec], QuantizationSpec]) -> Callable[[Any], Any]:
    """Return a change that leaves alone what has no observer of its own."""
    return lambda spec: change(spec) if isinstance(spec, QuantizationSpec) else spec


def _per_channel(spec: QuantizationSpec) -> QuantizationSpec:
    """Return a spec with a scale for each channel, of the observer's kind for it where that is one by range."""
    symmetric = spec.qscheme in SYMMETRIC_SCHEMES
    observer = spec.observer_or_fake_quant_ctr
    if observer_of(spec) is MinMaxObserver:
        observer = PerChannelMinMaxObserver.with_args(**arguments_of(spec))
    scheme = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
    return dataclasses.replace(spec, qscheme=scheme, ch_axis=0, observer_or_fake_quant_ctr=observer)


def _widened(spec: QuantizationSpec) -> QuantizationSpec:
    return dataclasses.replace(spec, dtype=_WIDER.get(spec.dtype, spec.dtype), quant_min=None, quant_max=None)
