"""Specs and configs like given ones whose ranges are chosen in another way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from quantizer_sdk.observers import (
    HistogramObserver,
    MinMaxObserver,
    MSEObserver,
    ObserverFactory,
    PercentileObserver,
)
from quantizer_sdk.spec import QuantizationSpec
from quantizer_sdk.table import QuantizationConfig

__all__ = ["OBSERVERS", "arguments_of", "observer_of", "with_activations", "with_range_by"]

OBSERVERS: dict[str, ObserverFactory] = {
    "histogram": HistogramObserver.with_args(),
    "min-max": MinMaxObserver.with_args(),
    "MSE": MSEObserver.with_args(),
    "percentile 99.99": PercentileObserver.with_args(percentile=99.99),
    "percentile 99.9": PercentileObserver.with_args(percentile=99.9),
}
"""Ways to choose the range of an activation from data, by name."""

# What an observer is told that holds for whatever chooses the range.
_KEPT = frozenset({"eps", "granularity", "power_of_two_scale", "scale_dtype"})


def observer_of(spec: QuantizationSpec) -> Any:
    """Return the class that chooses a spec's range, or whatever else makes its observer."""
    constructor = spec.observer_or_fake_quant_ctr
    if constructor is None:
        return MinMaxObserver
    return constructor.constructor if isinstance(constructor, ObserverFactory) else constructor


def arguments_of(spec: QuantizationSpec) -> dict[str, Any]:
    """Return what a spec's observer is told."""
    constructor = spec.observer_or_fake_quant_ctr
    return constructor.arguments if isinstance(constructor, ObserverFactory) else {}


def with_range_by(spec: QuantizationSpec, observer: ObserverFactory) -> QuantizationSpec:
    """Return a spec with another observer, which keeps what all observers take."""
    kept = {name: value for name, value in arguments_of(spec).items() if name in _KEPT}
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=observer.with_args(**kept))


def with_activations(config: QuantizationConfig, change: Callable[[Any], Any]) -> QuantizationConfig:
    """Return a config with what a function makes of the specs of operands and results."""
    return dataclasses.replace(
        config,
        input_activation=change(config.input_activation),
        output_activation=change(config.output_activation),
    )
