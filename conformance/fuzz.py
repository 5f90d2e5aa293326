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
from quantizer_sdk.conformance.corpus import FORMS
from quantizer_sdk.conformance.draft import Draft
from quantizer_sdk.conformance.followers import FOLLOWERS, subject_of
from quantizer_sdk.conformance.outcome import CHECKS
from quantizer_sdk.conformance.placements import place, place_again
from quantizer_sdk.conformance.program import Program, Ref
from quantizer_sdk.conformance.scenario import Scenario

__all__ = ["fuzz_scenarios", "random_program"]

_Chain: TypeAlias = tuple[torch._ops.OpOverload, ...]

_VERSION = 1
"""Part of every graph's key: another number gives other graphs, under other ids."""

_MOST_CALLS = 12
_AGAIN = 20
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


def random_program(rows: Sequence[Row], choices: Choices) -> tuple[Program, tuple[_Chain, ...]] | None:
    """Return a graph of 2 to 12 calls, or a few more, with the chains of ops that it was made of.

    None if the rows name no ops that go together on any of the shapes tried.
    """
    for theme in choices.order(_THEMES, "theme"):
        draft = Draft(tuple(choices.between(low, high, theme, axis) for axis, (low, high) in enumerate(_THEMES[theme])))
        wanted = 3 + min(choices.below(_MOST_CALLS - 2, "length", attempt) for attempt in range(2))
        chains: list[_Chain] = []
        while len(draft.calls) < wanted:
            grown = _grown(draft, rows, choices.within(theme, len(draft.calls)))
            if grown is None:
                break
            draft = grown[0]
            chains.append(grown[1])
        program = draft.program(_outputs(draft, choices)) if draft.calls else None
        if program is not None and len(program.calls) > 1:
            return program, tuple(chains)
    return None


_THEMES: Mapping[str, tuple[tuple[int, int], ...]] = MappingProxyType(
    {
        "image": ((1, 2), (2, 6), (3, 7), (3, 7)),
        "square image": ((1, 1), (3, 8), (4, 6), (4, 6)),
        "sequence": ((1, 3), (2, 6), (4, 12)),
        "matrix": ((2, 6), (3, 17)),
        "vector": ((9, 40),),
        "volume": ((1, 1), (2, 3), (3, 4), (3, 4), (3, 4)),
    }
)
"""Kinds of first inputs: by axis, the smallest and the largest size."""


def _grown(draft: Draft, rows: Sequence[Row], choices: Choices) -> tuple[Draft, _Chain] | None:
    """Return the draft with a row's ops put on one of its values; None if no row's ops suit any."""
    if choices.chance(_AGAIN, "again"):
        longer = draft.copy()
        result = place_again(longer, choices)
        if result is not None:
            return longer, (longer.calls[-1].target,)
    by_name = {row.name: row for row in rows}
    # A row that moves codes often holds many ops, where gemms fill many rows.
    tickets = [(row.name, n) for row in rows for n in range(1 + len(row.steps[0].targets) // 3 if row.share else 1)]
    alone = frozenset(target for row in rows if len(row.steps) == 1 for target in row.steps[0].targets)
    for name in dict.fromkeys(name for name, _ in choices.order(tickets, "row")):
        chain = _chain(by_name[name], choices.within(name))
        for operand in _operands(draft, choices) if chain else ():
            followed = _followed(draft.copy(), chain, operand, choices.within(name, operand), alone)
            if followed is not None:
                return followed, chain
    return None


def _followed(
    draft: Draft, chain: _Chain, operand: Ref, choices: Choices, alone: frozenset[torch._ops.OpOverload]
) -> Draft | None:
    """Put a chain of ops on a value, each on the result of the one before.

    Where the table has an op in such a chain only, nothing else may read what it reads: it would stand alone.
    """
    for step, target in enumerate(chain):
        result = place(draft, choices.within(step), target, operand, leads=step < len(chain) - 1)
        if result is None:
            return None
        if step and target not in alone:
            draft.close(operand)
        operand = result
    return draft


def _chain(row: Row, choices: Choices) -> _Chain:
    """Choose an overload for each step of a row, most often a pure one; empty if the suite knows none for a step."""
    chain = []
    for number, step in enumerate(row.steps):
        known = [target for target in step.targets if target in (FOLLOWERS if number else FORMS)]
        plain = [target for target in known if not target._schema.is_mutable]
        if not known:
            return ()
        chain.append(choices.pick(plain if plain and choices.chance(80, "plain", number) else known, "target", number))
    return tuple(chain)


def _operands(draft: Draft, choices: Choices) -> list[Ref]:
    """Return what may be read, in the order in which it is tried: most often the latest result, or one not yet read."""
    values = choices.order(draft.values(), "operand")
    first = [draft.values()[-1]] if choices.chance(50, "latest") else []
    if choices.chance(50, "unread"):
        first += [ref for ref in values if ref in draft.unread()]
    return list(dict.fromkeys((*first, *values)))


def _outputs(draft: Draft, choices: Choices) -> tuple[Ref, ...]:
    """Return the last result, and sometimes another that nothing reads."""
    *others, last = draft.unread()
    if others and choices.chance(40, "two outputs"):
        return choices.pick(others, "other output"), last
    return (last,)


def _declared(check: str, chains: Sequence[_Chain], scheme: str, data: str, unsupported: Mapping[str, str]) -> bool:
    """Whether a check is declared unsupported for one of the chains that a graph is made of."""
    ids = (f"{CHECKS[check][0]}.{check}/{subject_of(chain)}/{scheme}/{data}/fuzz" for chain in chains)
    return any(fnmatch.fnmatchcase(id_, pattern) for id_ in ids for pattern in unsupported)


def _digest(program: Program) -> str:
    """Return six hexadecimal digits that name a program's content."""
    text = f"{program.inputs} {program.parameters}\n{program.source()}"
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
