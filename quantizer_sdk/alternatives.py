"""Configs that differ from a given one in one way that may raise accuracy, whatever the backend."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from quantizer_sdk.granularity import PerTensor
from quantizer_sdk.observers import (
    MinMaxObserver,
    MSEObserver,
    ObserverBase,
    ObserverFactory,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
)
from quantizer_sdk.spec import SYMMETRIC_SCHEMES, QuantizationSpec, granularity_of
from quantizer_sdk.table import QuantizationConfig

__all__ = ["alternative_configs"]

_WIDER = {torch.int8: torch.int16, torch.uint8: torch.uint16}
_RANGES: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("min-max range", MinMaxObserver, {}),
    ("MSE range", MSEObserver, {}),
    ("99.99 % range", PercentileObserver, {"percentile": 99.99}),
)


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
    for name, observer, arguments in _RANGES:
        if observer is not _observer_of(activation):
            found[name] = _with_activations(config, functools.partial(_told, observer=observer, arguments=arguments))
    if activation.dtype in _WIDER:
        found["16-bit activations"] = _with_activations(config, _widened)
    at_run_time = dataclasses.replace(
        activation, is_dynamic=True, observer_or_fake_quant_ctr=PlaceholderObserver.with_args(eps=0.0)
    )
    found["activations of each run"] = QuantizationConfig(at_run_time, None, weight, None)
    return found


def _with_activations(
    config: QuantizationConfig, change: Callable[[QuantizationSpec], QuantizationSpec]
) -> QuantizationConfig:
    one, other = config.input_activation, config.output_activation
    return dataclasses.replace(
        config,
        input_activation=change(one) if isinstance(one, QuantizationSpec) else one,
        output_activation=change(other) if isinstance(other, QuantizationSpec) else other,
    )


def _per_channel(spec: QuantizationSpec) -> QuantizationSpec:
    """Return a spec with a scale for each channel, of the observer's kind for it where that is one by range."""
    symmetric = spec.qscheme in SYMMETRIC_SCHEMES
    observer = spec.observer_or_fake_quant_ctr
    if _observer_of(spec) is MinMaxObserver:
        observer = PerChannelMinMaxObserver.with_args(**_arguments(spec))
    scheme = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
    return dataclasses.replace(spec, qscheme=scheme, ch_axis=0, observer_or_fake_quant_ctr=observer)


def _told(spec: QuantizationSpec, observer: type[ObserverBase], arguments: dict[str, Any]) -> QuantizationSpec:
    """Return a spec with another observer, which keeps what all observers take."""
    kept = {key: value for key, value in _arguments(spec).items() if key in {"eps", "granularity", "scale_dtype"}}
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=observer.with_args(**kept, **arguments))


def _widened(spec: QuantizationSpec) -> QuantizationSpec:
    return dataclasses.replace(spec, dtype=_WIDER.get(spec.dtype, spec.dtype), quant_min=None, quant_max=None)


def _observer_of(spec: QuantizationSpec) -> Any:
    constructor = spec.observer_or_fake_quant_ctr
    if constructor is None:
        return MinMaxObserver
    return constructor.constructor if isinstance(constructor, ObserverFactory) else constructor


def _arguments(spec: QuantizationSpec) -> dict[str, Any]:
    constructor = spec.observer_or_fake_quant_ctr
    return constructor.arguments if isinstance(constructor, ObserverFactory) else {}
