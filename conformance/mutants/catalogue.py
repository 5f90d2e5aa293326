"""All mutants, and the right backends that they were made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from quantizer_sdk import Backend
from quantizer_sdk.conformance.mutants.arithmetic_mutants import ARITHMETIC_MUTANTS
from quantizer_sdk.conformance.mutants.behaviour_mutants import BEHAVIOUR_MUTANTS
from quantizer_sdk.conformance.mutants.coverage_mutants import COVERAGE_MUTANTS
from quantizer_sdk.conformance.mutants.dynamic_mutants import DYNAMIC_MUTANTS
from quantizer_sdk.conformance.mutants.dynamic_quantizer_mutants import DYNAMIC_QUANTIZER_MUTANTS
from quantizer_sdk.conformance.mutants.engine_mutants import ENGINE_MUTANTS
from quantizer_sdk.conformance.mutants.healthy import healthy, healthy_integer_bias, healthy_relu_at_end
from quantizer_sdk.conformance.mutants.legality_mutants import LEGALITY_MUTANTS
from quantizer_sdk.conformance.mutants.mutant import Mutant
from quantizer_sdk.conformance.mutants.range_mutants import RANGE_MUTANTS
from quantizer_sdk.conformance.mutants.runtime_mutants import RUNTIME_MUTANTS
from quantizer_sdk.conformance.mutants.sharing_mutants import SHARING_MUTANTS

__all__ = ["MUTANTS", "SOUND", "cases_of"]

MUTANTS: tuple[Mutant, ...] = (
    *COVERAGE_MUTANTS,
    *LEGALITY_MUTANTS,
    *SHARING_MUTANTS,
    *BEHAVIOUR_MUTANTS,
    *RANGE_MUTANTS,
    *ENGINE_MUTANTS,
    *ARITHMETIC_MUTANTS,
    *RUNTIME_MUTANTS,
    *DYNAMIC_MUTANTS,
    *DYNAMIC_QUANTIZER_MUTANTS,
)
"""Every wrong backend, by what is wrong."""

SOUND: Mapping[str, Callable[[], Backend]] = MappingProxyType(
    {
        "healthy": healthy,
        "healthy_integer_bias": healthy_integer_bias,
        "healthy_relu_at_end": healthy_relu_at_end,
    }
)
"""The right backends."""


def cases_of(sound: Callable[[], Backend]) -> tuple[str, ...]:
    """Return the cases of all mutants that were made from a right backend, each once."""
    return tuple(dict.fromkeys(case for mutant in MUTANTS if mutant.sound is sound for case in mutant.cases))
