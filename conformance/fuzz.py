"""Random graphs of a table's ops, as scenarios: residuals, values that several ops read, shared parameters."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import torch

from quantizer_sdk import Row
from quantizer_sdk.conformance.choices import Choices
from quantizer_sdk.conformance.corpus import FOLLOWERS, FORMS, subject_of
from quantizer_sdk.conformance.draft import Draft
from quantizer_sdk.conformance.placements import place
from quantizer_sdk.conformance.program import Program, Ref
from quantizer_sdk.conformance.scenario import Scenario

__all__ = ["fuzz_scenarios", "random_program"]

_Chain: TypeAlias = tuple[torch._ops.OpOverload, ...]

_VERSION = 1
"""Part of every graph's key: another number gives other graphs, under other ids."""

_MOST_CALLS = 12
_CHECKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "generic": ("C1", "C2", "C3", "C4", "R1", "K1", "K2", "D1", "D2", "D3"),
        "zp_odd": ("R1", "K1", "K3", "D3"),
    }
)


def fuzz_scenarios(
    rows: Sequence[Row],
    schemes: Sequence[str],
    without: frozenset[str],
    *,
    seed: int = 0,
    count: int = 40,
    unsupported: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Scenario, ...]:
    """Return random graphs as scenarios; seed 0 is the frozen corpus of the verdict.

    A graph depends on the seed, its number and the rows, and on nothing else: not on the machine, the version of Python
    or torch, or the count. A further row changes only those graphs that it gets a call in. The last part of an id
    names the graph's content, so that no id ever stands for two graphs.

    Args:
        rows: The table.
        schemes: The names of the backend's configurations; each graph is quantized under one.
        without: Checks that nothing can answer.
        seed: Of the graphs.
        count: How many.
        unsupported: As `Profile.unsupported`: a check that is declared unsupported for an op by itself is left out
            where a graph has that op.
    """
    return tuple(_scenarios(rows, schemes, without, seed, count, unsupported))


def _scenarios(
    rows: Sequence[Row],
    schemes: Sequence[str],
    without: frozenset[str],
    seed: int,
    count: int,
    unsupported: Mapping[str, str],
) -> Iterator[Scenario]:
    for number in range(count):
        choices = Choices(_VERSION, seed, number)
        found = random_program(rows, choices)
        if found is None:
            return
        program, chains = found
        scheme = choices.pick(schemes, "scheme")
        for data, checks in _CHECKS.items():
            scenario = Scenario(
                subject=f"graph.{number:04d}" if seed == 0 else f"graph.s{seed}.{number:04d}",
                scheme=scheme,
                data=data,
                shape=f"fuzz.{_digest(program)}",
                program=program,
                length=len(program.calls),
                checks=tuple(
                    check
                    for check in checks
                    if check not in without and not _declared(check, chains, scheme, data, unsupported)
                ),
            )
            if scenario.checks:
                yield scenario
