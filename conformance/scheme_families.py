"""The families of configurations whose activations are quantized at run time, or whose weights have few bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from quantizer_sdk import Row
from quantizer_sdk.conformance.corpus import FORMS
from quantizer_sdk.conformance.families import applies, chains_of, has_weights
from quantizer_sdk.conformance.followers import FOLLOWERS, subject_of
from quantizer_sdk.conformance.forms import Form, narrow_linears
from quantizer_sdk.conformance.program import Program
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.scheme import Scheme

__all__ = ["scheme_scenarios"]

aten = torch.ops.aten
_Chain = tuple[torch._ops.OpOverload, ...]

_SIDES: dict[str, tuple[str, ...]] = {
    "generic": ("C1", "C2", "C4", "E1", "E3", "E4", "R1", "R2", "R6", "K1", "K2", "D1", "D2"),
    "rows_ties": ("R1", "K1", "K3"),
    "rows_unequal": ("R1", "R2", "R6", "K1", "K6"),
    "unequal": ("R1", "K1", "K6"),
    "rows_flat": ("R1", "K1", "K7"),
    "rows_extreme": ("R1", "K1", "K7"),
    "nonfinite": ("K7",),
    "dynamic_batch": ("K5",),
    "strict": ("E2",),
    "no_grad": ("E2",),
    "training_export": ("E2",),
    "called_twice": ("E2",),
}
"""What the plainest form of a dynamic gemm is looked at for, by the kind of data."""

_ANOTHER_NAME = ("generic", "rows_ties", "rows_unequal")
"""Of these, what a matrix product is looked at for that is no linear layer, and computed by the same kernel."""

_USUAL = ("C1", "C2", "R1", "K1", "D2")
_EDGE = ("R1", "K1", "K5", "D2")
_FUSED = ("C1", "C4", "R1", "K1", "K2", "D2")
_NARROW: dict[str, tuple[str, ...]] = {
    "generic": ("C1", "C2", "R1", "R2", "R6", "K1", "K2", "D1", "D2"),
    "rows_ties": ("R1", "K1", "K3"),
    "rows_unequal": ("R1", "K1", "K6"),
}
_STATIC: dict[str, tuple[str, ...]] = {
    "generic": ("C1", "C2", "C3", "C4", "R1", "R2", "R3", "R7", "K1", "K2", "D1", "D2"),
    "zp_odd": ("R1", "K1", "K3"),
    "unequal": ("R1", "R2", "K1", "K6"),
    "ends": ("R1", "K1", "K4"),
}
"""What a linear layer with weights of few bits is looked at for, with dynamic and with static activations."""


def scheme_scenarios(
    rows: Sequence[Row],
    schemes: Sequence[str],
    claims: Callable[[Program, str], bool],
    without: frozenset[str] = frozenset(),
) -> tuple[Scenario, ...]:
    """Enumerate the scenarios of such configurations.

    The first whose activations are quantized at run time is looked at most closely. Of a chain of ops that the
    quantizer does not claim in any form of a gemm with a weight there is only C1: it has to say why.

    Args:
        rows: The table.
        schemes: The names of the configurations.
        claims: Whether the quantizer of a configuration claims all ops of a program.
        without: Checks that nothing can answer.
    """
    seen: dict[str, Scenario] = {}
    main = next((name for name in schemes if Scheme.named(name).dynamic and Scheme.named(name).weight_bits == 8), None)
    for name in schemes:
        for row in rows:
            for chain in _principal(row, closely=name == main):
                for scenario in _family(chain, name, main, claims):
                    checks = tuple(c for c in scenario.checks if c not in without and applies(c, scenario))
                    if checks:
                        kept = replace(scenario, checks=checks, row=row.name)
                        seen.setdefault(kept.case_ids()[0], kept)
    return tuple(seen.values())


def _principal(row: Row, *, closely: bool) -> Iterator[_Chain]:
    """Yield the principal chains of a row that begins with a gemm; looked at closely, the first one of any row."""
    chains = [chain for chain, principal in chains_of(row) if principal]
    if has_weights(tuple(chain[0] for chain in chains[:1])):
        yield from chains
    elif closely:
        yield from chains[:1]


def _family(chain: _Chain, name: str, main: str | None, claims: Callable[[Program, str], bool]) -> Iterator[Scenario]:
    """Yield the scenarios of one chain of ops under one configuration."""
    narrow = Scheme.named(name).weight_bits < 8 and chain[0] is aten.linear.default
    forms = narrow_linears() if narrow else FORMS[chain[0]]
    weighted = [form for form in forms if form.program.parameters]
    gemm = has_weights(chain[:1]) and len(weighted) > 0
    plainest = _scenario(chain, name, weighted[0] if gemm else forms[0], ("C1",))
    if plainest is None:
        return
    if not gemm or not claims(plainest.program, name):
        yield from [plainest] if len(chain) == 1 or name == main else []
    elif len(chain) > 1:
        yield replace(plainest, checks=_FUSED)
    elif narrow:
        yield from _narrow(chain, name, weighted)
        odd = _scenario(chain, name, FORMS[chain[0]][0], ("C1", "R1", "K1"))
        yield from [odd] if odd is not None else []
    elif name == main:
        yield from _dynamic(chain, name, weighted)
    else:
        yield replace(plainest, checks=_FUSED)


def _dynamic(chain: _Chain, name: str, forms: Sequence[Form]) -> Iterator[Scenario]:
    """Yield those of a gemm alone; another name for it is looked at once."""
    usual = [form for form in forms if not form.edge]
    for form in (*usual, *(form for form in forms if form.edge)):
        base = _scenario(chain, name, form, _EDGE if form.edge else _USUAL)
        if base is None:
            continue
        if chain[0]._overloadname == "padding":
            yield replace(base, checks=_FUSED)
            return
        if form is not usual[0]:
            yield base
            continue
        alike = chain[0] in (aten.addmm.default, aten.mm.default, aten.matmul.default)
        kinds = _ANOTHER_NAME if alike else tuple(_SIDES)
        yield from (replace(base, data=kind, checks=_SIDES[kind]) for kind in kinds)


def _narrow(chain: _Chain, name: str, forms: Sequence[Form]) -> Iterator[Scenario]:
    """Yield those of a linear layer whose weights have few bits."""
    sides = _NARROW if Scheme.named(name).dynamic else _STATIC
    for place, form in enumerate(forms):
        base = _scenario(chain, name, form, _EDGE)
        if base is None:
            continue
        if place:
            yield base
            continue
        yield from (replace(base, data=data, checks=checks) for data, checks in sides.items())


def _scenario(chain: _Chain, name: str, form: Form, checks: tuple[str, ...]) -> Scenario | None:
    """Return a scenario of generic data; None where the chain does not fit the form."""
    program: Program | None = form.program
    for target in chain[1:]:
        program = None if program is None else FOLLOWERS[target](program)
    if program is None:
        return None
    return Scenario(
        subject=subject_of(chain),
        scheme=name,
        data="generic",
        shape=form.name,
        program=program,
        length=len(chain),
        checks=checks,
    )
