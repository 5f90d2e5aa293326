"""The backends of mutants by attribute, as a worker process loads them: `...mutants.spawned:segfaults`."""

from __future__ import annotations

from quantizer_sdk import Backend
from quantizer_sdk.conformance.mutants.catalogue import MUTANTS

__all__ = ["__getattr__"]


def __getattr__(name: str) -> Backend:
    """Make the backend of the mutant of this name.

    Raises:
        AttributeError: There is no such mutant.
    """
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant.make()
    raise AttributeError(f"no mutant {name!r}; expected one of {', '.join(mutant.name for mutant in MUTANTS)}")
