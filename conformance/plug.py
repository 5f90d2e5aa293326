"""From what a user names to a backend: an entry point, or `package.module:Name` with another backend's runtime lent."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from quantizer_sdk import Backend, Quantizer, find_backend
from quantizer_sdk.errors import BackendError

__all__ = ["load_backend"]


def load_backend(name: str, *, runner: str | None = None, profile: str | None = None) -> Backend:
    """Load what is to be judged.

    Args:
        name: An entry point's name, or the dotted name of a `Backend`, a `Quantizer` class or a function that returns a
            quantizer.
        runner: Name of a backend whose runner is lent to this one.
        profile: Name of a backend whose profile is lent.

    Raises:
        BackendError: There is no such backend, module or attribute, or it is nothing that can be judged.
    """
    backend = _dotted(name) if ":" in name else find_backend(name)
    if runner is not None:
        lender = find_backend(runner)
        if lender.runner is None:
            raise BackendError(f"--runner {runner}: that backend has no runner to lend")
        backend = dataclasses.replace(backend, runner=lender.runner)
    if profile is not None:
        lender = find_backend(profile)
        if lender.profile is None:
            raise BackendError(f"--profile {profile}: that backend has no profile to lend")
        backend = dataclasses.replace(backend, profile=lender.profile)
    return backend


def _dotted(name: str) -> Backend:
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as e:
        message = f"cannot load {name!r}: {e}; expected package.module:Name of a Quantizer, a factory or a Backend"
        raise BackendError(message) from e
    if isinstance(found, Backend):
        return found
    if not callable(found):
        raise BackendError(f"{name!r} is a {type(found).__name__}; expected a Quantizer class, a factory or a Backend")
    return Backend(name=name, quantizer=_checked(name, found))


def _checked(name: str, factory: Callable[..., Any]) -> Callable[..., Quantizer]:
    try:
        quantizer = factory()
    except Exception as e:
        message = f"{name!r} cannot be called without arguments: {type(e).__name__}: {e}; give it defaults"
        raise BackendError(message) from e
    if not all(callable(getattr(quantizer, method, None)) for method in ("annotate", "validate")):
        message = f"{name!r} gives a {type(quantizer).__name__}; expected a Quantizer, with annotate() and validate()"
        raise BackendError(message)
    return factory
