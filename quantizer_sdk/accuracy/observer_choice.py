"""Another way to choose the ranges of activations, in a quantizer that has its own."""

from __future__ import annotations

from typing import Any

from quantizer_sdk.errors import RuleError
from quantizer_sdk.observers import HistogramObserver, MinMaxObserver, ObserverFactory, PercentileObserver
from quantizer_sdk.quantizer import ComposableQuantizer, QuantizerLike
from quantizer_sdk.range_choice import OBSERVERS, observer_of, with_activations, with_range_by
from quantizer_sdk.spec import QuantizationSpec
from quantizer_sdk.table import QuantizationConfig
from quantizer_sdk.table_quantizer import TableQuantizer

__all__ = ["with_observer"]

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
        return with_activations(config, lambda spec: _changed(spec, OBSERVERS[observer], changes))

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
    kind = observer_of(spec)
    if not (isinstance(kind, type) and issubclass(kind, _WATCHING)):
        return spec
    changed = with_range_by(spec, observer)
    changes.append(changed != spec)
    return changed
