"""Another way to choose the ranges of activations, in a quantizer that has its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from quantizer_sdk.errors import RuleError
from quantizer_sdk.observers import (
    HistogramObserver,
    MinMaxObserver,
    MSEObserver,
    ObserverFactory,
    PercentileObserver,
)
from quantizer_sdk.quantizer import ComposableQuantizer, QuantizerLike
from quantizer_sdk.spec import QuantizationSpec
from quantizer_sdk.table import QuantizationConfig
from quantizer_sdk.table_quantizer import TableQuantizer

__all__ = ["OBSERVERS", "with_observer"]

OBSERVERS: dict[str, ObserverFactory] = {
    "histogram": HistogramObserver.with_args(),
    "min-max": MinMaxObserver.with_args(),
    "MSE": MSEObserver.with_args(),
    "percentile 99.99": PercentileObserver.with_args(percentile=99.99),
    "percentile 99.9": PercentileObserver.with_args(percentile=99.9),
}
"""Ways to choose the range of an activation from data, by the names that `with_observer` and `tune` know."""

# What an observer is told that holds for whatever chooses the range.
_KEPT = frozenset({"eps", "granularity", "power_of_two_scale", "scale_dtype"})
_WATCHING = (HistogramObserver, MinMaxObserver, PercentileObserver)


def with_observer(quantizer: QuantizerLike, observer: str) -> QuantizerLike:
    """Return a quantizer that chooses the ranges of static activations in another way, and does all else as before.

    Args:
        quantizer: A `TableQuantizer` or a `ComposableQuantizer` of such; it stays as it is.
        observer: One of `OBSERVERS`.

    Raises:
        RuleError: There is no such observer; the quantizer is of another kind; or it has no static activations whose
            ranges data chooses, or chooses all of them in this way already.
    """
    if observer not in OBSERVERS:
        raise RuleError(f"no observer {observer!r}; there are {', '.join(OBSERVERS)}")
    changes: list[bool] = []

    def change(config: QuantizationConfig) -> QuantizationConfig:
        specs = {
            name: _changed(getattr(config, name), OBSERVERS[observer], changes)
            for name in ("input_activation", "output_activation")
        }
        return dataclasses.replace(config, **specs)

    def of(it: QuantizerLike) -> QuantizerLike:
        if isinstance(it, ComposableQuantizer):
            return ComposableQuantizer([of(part) for part in it.quantizers])
        if isinstance(it, TableQuantizer):
            return it.with_configs(change)
        raise RuleError(f"a {type(it).__name__} has no table of rules whose observers could be others")

    result = of(quantizer)
    if not changes:
        raise RuleError("no activation's range is chosen from calibration data")
    if not any(changes):
        raise RuleError(f"the quantizer chooses all ranges by {observer} already")
    return result


def _changed(spec: Any, observer: ObserverFactory, changes: list[bool]) -> Any:
    """Return a spec with another observer if it is static and has one that watches data; note if it was another."""
    if not isinstance(spec, QuantizationSpec) or spec.is_dynamic:
        return spec
    given = spec.observer_or_fake_quant_ctr
    kind = given.constructor if isinstance(given, ObserverFactory) else given
    arguments = given.arguments if isinstance(given, ObserverFactory) else {}
    watches = given is None or (isinstance(kind, type) and issubclass(kind, _WATCHING))
    if not watches:
        return spec
    kept = {name: value for name, value in arguments.items() if name in _KEPT}
    changed = dataclasses.replace(spec, observer_or_fake_quant_ctr=observer.with_args(**kept))
    changes.append(changed != spec)
    return changed
