"""What every public case is made of: a small backend with the defect, and the suite's verdict on one case of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from quantizer_sdk import Backend, Quantizer, TableQuantizer
from quantizer_sdk.backend import Runner, Variant
from quantizer_sdk.backends.xnnpack import BACKEND, XNNPACKQuantizer
from quantizer_sdk.backends.xnnpack.profile import PROFILE
from quantizer_sdk.backends.xnnpack.table import ROWS
from quantizer_sdk.conformance.evaluate import evaluate
from quantizer_sdk.conformance.finding import Finding
from quantizer_sdk.conformance.mutants.emulated import Compute, emulated_lower, predicted
from quantizer_sdk.conformance.outcome import Outcome, Status, case_check
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.suite import scenarios_of

__all__ = [
    "PublicCase",
    "emulated",
    "enumerated",
    "narrow",
    "on_xnnpack",
    "outcome_of",
    "rebuilt",
    "row",
    "table",
    "unexecuted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicCase:
    """One check that sees the defect of one public report.

    Attributes:
        number: The repository and number of the report.
        check: Names the check.
        defective: Gives the suite's outcome with the defect.
        healthy: The same without.
        signature: The kind of shortfall that must be found, so that no other one passes for it.
        status: How the case with the defect ends.
        form: Tells several forms of one defect under one check apart.
        needs: A program that must be installed, as a command.
    """

    number: str
    check: str
    defective: Callable[[], Outcome | Finding]
    healthy: Callable[[], Outcome | Finding]
    signature: str
    status: Status = Status.FAIL
    form: str = ""
    needs: str | None = None

    def __str__(self) -> str:
        return "-".join(filter(None, (self.number, self.check, self.form)))


def enumerated(backend: Backend, id_: str, **changes) -> Scenario:
    """Return the scenario of a case that the suite has for a backend, with the case's check alone, and changed."""
    found = [scenario for scenario in scenarios_of(backend) if id_ in scenario.case_ids()]
    assert found, f"the suite has no case {id_} for this backend"
    return replace(found[0], **{"checks": (case_check(id_),), **changes})


def outcome_of(backend: Backend, case: str | Scenario) -> Outcome:
    """Return what a case comes to on a backend: one that the suite has for it, by id, or a scenario of one check."""
    scenario = enumerated(backend, case) if isinstance(case, str) else case
    (outcome,) = evaluate(scenario, backend, scenario.checks, 0)
    return outcome


def rebuilt(
    number: str, check: str, signature: str, case: str | Scenario, defective: Backend, healthy: Backend, **options
) -> PublicCase:
    """Return the public case that one of the suite's cases sees: it falls short with the defect and passes without."""
    return PublicCase(
        number=number,
        check=check,
        signature=signature,
        defective=partial(outcome_of, defective, case),
        healthy=partial(outcome_of, healthy, case),
        **options,
    )


def row(name):
    """Return a row of XNNPACK's table."""
    (found,) = [row for row in ROWS if row.name == name]
    return found


def table(*rows, kind: type[TableQuantizer] = XNNPACKQuantizer) -> type[TableQuantizer]:
    """Return a quantizer class with these rows only, and so with few cases, that does not validate itself."""
    return type(kind.__name__, (kind,), {"rows": rows, "validate": Quantizer.validate})


def narrow(*names: str, kind: type[TableQuantizer] = XNNPACKQuantizer) -> type[TableQuantizer]:
    """Return a quantizer class with some rows of XNNPACK's table."""
    return table(*(row for row in ROWS if row.name in names), kind=kind)


def unexecuted(quantizer: Callable[[], Quantizer], **changes) -> Backend:
    """Return a backend that has no runtime, with XNNPACK's profile."""
    profile = replace(PROFILE, **changes)
    return Backend(name="unexecuted", quantizer=quantizer, profile=profile, configurations={"s8.pc": quantizer})


def on_xnnpack(quantizer: Callable[[], Quantizer]) -> Backend:
    """Return a backend that runs on XNNPACK's own kernels."""
    return replace(BACKEND, quantizer=quantizer, configurations={"s8.pc": quantizer})


def emulated(
    quantizer: Callable[[], Quantizer],
    compute: Compute = predicted,
    *,
    optimizer_off: Compute = predicted,
    narrow_isa: Compute = predicted,
) -> Backend:
    """Return a backend whose kernels follow XNNPACK's profile, but for what is put in their place."""
    variants = (
        Variant(name="optimizations off", axis="optimizer", lower=emulated_lower(PROFILE, optimizer_off)),
        Variant(name="AVX2", axis="isa", lower=emulated_lower(PROFILE, narrow_isa)),
    )
    runner = Runner(name="emulator", lower=emulated_lower(PROFILE, compute), variants=variants)
    return replace(unexecuted(quantizer), name="emulated", runner=runner)
