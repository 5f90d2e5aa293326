"""The cases of a backend, and which of them a run wants."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from quantizer_sdk import Backend, Row, Step
from quantizer_sdk.conformance.families import row_scenarios
from quantizer_sdk.conformance.fuzz import fuzz_scenarios
from quantizer_sdk.conformance.models import model_scenarios
from quantizer_sdk.conformance.outcome import CHECKS, case_level
from quantizer_sdk.conformance.probing import Claims, probed_rows
from quantizer_sdk.conformance.report import LEVELS
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.scheme import plain_schemes
from quantizer_sdk.conformance.scheme_families import scheme_scenarios

__all__ = ["Selection", "scenarios_of", "unanswerable"]

_GRAPHS, _SHAPES = 40, 4
"""How many random graphs, and how many programs of a row on generic data, a compiler is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which cases a run wants.

    Attributes:
        level: The highest level.
        patterns: As `fnmatch` reads them; a case is wanted if one matches. None wants all.
        ids: Only these, if not None.
        quick: Only the plainest case of each row of one op, on generic data.
    """

    level: str = LEVELS[-1]
    patterns: tuple[str, ...] = ()
    ids: frozenset[str] | None = None
    quick: bool = False

    def of(self, scenarios: Sequence[Scenario]) -> tuple[Scenario, ...]:
        """Return the scenarios with those checks that are wanted, without those that have none left."""
        if self.quick:
            scenarios = tuple(_plainest(scenarios))
        wanted = (
            replace(scenario, checks=tuple(c for c in scenario.checks if self.wants(scenario.case_id(c))))
            for scenario in scenarios
        )
        return tuple(scenario for scenario in wanted if scenario.checks)

    def wants(self, id_: str) -> bool:
        """Whether a case is wanted."""
        if LEVELS.index(case_level(id_)) > LEVELS.index(self.level):
            return False
        if self.ids is not None and id_ not in self.ids:
            return False
        return not self.patterns or any(fnmatch.fnmatchcase(id_, pattern) for pattern in self.patterns)

    @property
    def partial(self) -> bool:
        """Whether cases of the levels that it reaches are left out."""
        return bool(self.patterns) or self.ids is not None or self.quick

    def words(self) -> dict[str, str]:
        """Return it as a report shows it; empty for the whole suite."""
        found = {}
        if self.level != LEVELS[-1]:
            found["level"] = self.level
        if self.patterns:
            found["select"] = " ".join(self.patterns)
        if self.ids is not None:
            found["since"] = f"{len(self.ids)} cases"
        if self.quick:
            found["quick"] = "yes"
        return found


def scenarios_of(backend: Backend) -> tuple[Scenario, ...]:
    """Enumerate all scenarios of a backend: from its table, or from what its quantizer claims of the op corpus.

    Beside the families of its rows and of the ops that it rewrites as others, and those of run-time qparams and narrow
    weights where it has them, these are random graphs of the rows' ops, the same in every run, and whole models.
    """
    if backend.parts:
        return tuple(scenario for part in backend.parts for scenario in scenarios_of(part))
    rows = getattr(backend.quantizer(), "rows", None)
    if not rows:
        rows = probed_rows(backend)
    schemes = tuple(backend.schemes())
    without = unanswerable(backend)
    declared = {} if backend.profile is None else backend.profile.unsupported
    plain = plain_schemes(schemes)
    others = tuple(name for name in schemes if name not in plain)
    special = scheme_scenarios(rows, others, Claims(backend), without)
    if not plain:
        return special
    rewrites = getattr(backend.quantizer(), "rewrites", ())
    rewritten = tuple(
        Row(f"rewrite {rewrite.name}", (Step(rewrite.targets),), share=rewrite.moves) for rewrite in rewrites
    )
    scenarios = (
        *row_scenarios((*rows, *rewritten), plain, without),
        *special,
        *fuzz_scenarios(rows, plain, without, unsupported=declared),
        *model_scenarios(rows, plain),
    )
    compiles = backend.runner is not None and backend.runner.compiles
    return tuple(_fewer_programs(scenarios)) if compiles else scenarios


def unanswerable(backend: Backend) -> frozenset[str]:
    """Return the checks that nothing can answer: of kernels without a runner, of an optimizer without a choice."""
    if backend.runner is None:
        return frozenset(check for check, (level, _) in CHECKS.items() if level in {"L3", "L4"})
    axes: Collection[str] = {variant.axis for variant in backend.runner.variants}
    return frozenset() if "optimizer" in axes else frozenset({"D3"})


def _fewer_programs(scenarios: Sequence[Scenario]) -> Iterator[Scenario]:
    """Yield scenarios of which only some look at kernels: the first few of each kind of data on each row.

    Random graphs, which are of no row, count as one; models are all looked at.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for scenario in scenarios:
        seen[scenario.row, scenario.data] += 1
        many = _GRAPHS if not scenario.row else _SHAPES if scenario.data == "generic" else 1
        if seen[scenario.row, scenario.data] <= many or "M1" in scenario.checks:
            yield scenario
            continue
        checks = tuple(check for check in scenario.checks if CHECKS[check][0] not in {"L3", "L4"})
        if checks:
            yield replace(scenario, checks=checks)


def _plainest(scenarios: Sequence[Scenario]) -> Iterator[Scenario]:
    """Yield the first scenario of each row of one op: kernels fused with an activation are left out."""
    seen: set[tuple[str, str]] = set()
    for scenario in scenarios:
        if scenario.row and (scenario.part, scenario.row) not in seen and scenario.length == 1:
            seen.add((scenario.part, scenario.row))
            yield replace(scenario, checks=tuple(check for check in scenario.checks if check != "D4"))
