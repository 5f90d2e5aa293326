"""The values in specs and in the arguments of observers, as plain data and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from quantizer_sdk import fake_quantize, granularity, observers
from quantizer_sdk.configuration.place import Place
from quantizer_sdk.errors import ConfigurationError, QuantizerError
from quantizer_sdk.granularity import Granularity
from quantizer_sdk.observers.module import ObserverFactory, QParamsModule

__all__ = ["Observers", "read_dtype", "read_qscheme", "write_torch"]

_PREFIX = "torch."
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_QSCHEMES = {
    str(value): value
    for value in (
        *(torch.per_tensor_affine, torch.per_tensor_symmetric),
        *(torch.per_channel_affine, torch.per_channel_symmetric),
    )
}
_GRANULARITIES = {
    kind.__name__: kind
    for kind in vars(granularity).values()
    if isinstance(kind, type) and issubclass(kind, Granularity) and kind is not Granularity
}


def write_torch(value: torch.dtype | torch.qscheme) -> str:
    """Return "uint8" for `torch.uint8`, "per_tensor_affine" for the scheme of that name."""
    return str(value).removeprefix(_PREFIX)


def read_dtype(place: Place) -> torch.dtype:
    """Return the dtype of this name.

    Raises:
        ConfigurationError: There is none.
    """
    found = _DTYPES.get(f"{_PREFIX}{place.as_(str)}")
    if found is None:
        place.fail(f"is {place.value!r}", "expected the name of a torch.dtype, such as 'int8' or 'uint8'")
    return found


def read_qscheme(place: Place) -> torch.qscheme:
    """Return the scheme of this name.

    Raises:
        ConfigurationError: There is none.
    """
    return _QSCHEMES[_PREFIX + place.one_of([name.removeprefix(_PREFIX) for name in _QSCHEMES])]


class Observers:
    """The observers and fake quantizers that a file may name.

    Args:
        own: Classes of the user's, beside those of `quantizer_sdk.observers` and `quantizer_sdk.fake_quantize`. A file
            cannot name any other: reading one runs no code that the reader did not choose.
    """

    def __init__(self, own: Iterable[type] = ()) -> None:
        public = [getattr(module, name) for module in (observers, fake_quantize) for name in module.__all__]
        kinds = [kind for kind in public if isinstance(kind, type) and issubclass(kind, QParamsModule)]
        self._by_name: Mapping[str, Any] = {kind.__name__: kind for kind in (*kinds, *own)}

    def write(self, constructor: Any) -> dict[str, Any]:
        """Return the name of what makes an observer, and the arguments that it is told.

        Raises:
            ConfigurationError: A file cannot name it.
        """
        told = isinstance(constructor, ObserverFactory)
        kind, arguments = (constructor.constructor, constructor.arguments) if told else (constructor, {})
        name = getattr(kind, "__name__", repr(kind))
        if self._by_name.get(name) is not kind:
            raise ConfigurationError(
                f"a configuration file cannot name the observer {kind!r}; it names those of quantizer_sdk.observers "
                "and quantizer_sdk.fake_quantize, and classes of your own that you give as observers=[...]"
            )
        found = {"observer": name}
        written = {key: self._write_argument(value, name, key) for key, value in arguments.items() if value is not None}
        return {**found, "arguments": written} if written else found

    def _write_argument(self, value: Any, name: str, key: str) -> Any:
        if isinstance(value, (torch.dtype, torch.qscheme)):
            return str(value)
        if isinstance(value, Granularity):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            plain = {key: list(item) if isinstance(item, tuple) else item for key, item in fields.items()}
            return {"granularity": type(value).__name__, **plain}
        if isinstance(value, ObserverFactory) or (isinstance(value, type) and hasattr(value, "with_args")):
            return self.write(value)
        if isinstance(value, (bool, int, float, str)) and not str(value).startswith(_PREFIX):
            return value
        raise ConfigurationError(
            f"a configuration file cannot hold the argument {key}={value!r} of {name}; it holds numbers, strings, "
            "dtypes, granularities and observers"
        )

    def read(self, name: Place, arguments: Place | None) -> ObserverFactory:
        """Return a factory of the named observer.

        Raises:
            ConfigurationError: There is none of this name, or a value is none that it takes.
        """
        kind = self._by_name[name.one_of(self._by_name)]
        told = {} if arguments is None else {key: self._read_argument(place) for key, place in arguments.items()}
        factory: ObserverFactory = kind.with_args(**told)
        return factory

    def _read_argument(self, place: Place) -> Any:
        value = place.value
        if isinstance(value, dict):
            if "granularity" in value:
                return _read_granularity(place)
            entries = place.entries(["observer"], ["arguments"])
            return self.read(entries["observer"], entries.get("arguments"))
        if isinstance(value, str) and value.startswith(_PREFIX):
            if (known := {**_DTYPES, **_QSCHEMES}.get(value)) is None:
                place.fail(f"is {value!r}", "expected a torch.dtype such as 'torch.int8' or a scheme")
            return known
        if not isinstance(value, (bool, int, float, str)):
            place.fail(f"is {value!r}", "expected a number, a string, true or false, a granularity or an observer")
        return value


def _read_granularity(place: Place) -> Granularity:
    entries = dict(place.items())
    kind = _GRANULARITIES[entries.pop("granularity").one_of(_GRANULARITIES)]
    fields = {field.name for field in dataclasses.fields(kind)}
    for key, entry in entries.items():
        if key not in fields:
            entry.fail("is not known", f"{kind.__name__} has {', '.join(sorted(fields)) or 'no fields'}")
        for item in entry.value if isinstance(entry.value, list) else [entry.value]:
            if not isinstance(item, int) or isinstance(item, bool):
                entry.fail(f"is {entry.value!r}", "expected an integer, or a list of them")
    try:
        return kind(**{key: tuple(it.value) if isinstance(it.value, list) else it.value for key, it in entries.items()})
    except (TypeError, QuantizerError) as e:
        place.fail(f"is {place.value!r}", str(e))
