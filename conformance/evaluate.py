"""One scenario evaluated: each of its checks becomes an outcome, whatever happens."""

from __future__ import annotations

import fnmatch
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from quantizer_sdk import Backend, Profile
from quantizer_sdk.conformance import (
    checks_contract,
    checks_delegation,
    checks_dynamic_contract,
    checks_dynamic_kernel,
    checks_dynamic_reference,
    checks_engine,
    checks_kernel,
    checks_models,
    checks_reference,
)
from quantizer_sdk.conformance.bench import Bench
from quantizer_sdk.conformance.dynamic_bench import DynamicBench
from quantizer_sdk.conformance.exports import other_exports_agree
from quantizer_sdk.conformance.finding import Finding, failed, short
from quantizer_sdk.conformance.malformed import malformed_is_refused
from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.scheme import Scheme
from quantizer_sdk.errors import (
    GraphError,
    LoweringError,
    NothingAnnotatedError,
    QuantizerError,
    UnsupportedError,
)

__all__ = ["declared", "evaluate"]

_CHECKS: Mapping[str, Callable[[Bench], Finding]] = {
    "C1": checks_contract.claimed_is_quantized,
    "C2": checks_contract.legal,
    "C3": checks_contract.shared_qparams_agree,
    "C4": checks_contract.fusion_is_sound,
    "C5": malformed_is_refused,
    "E1": checks_engine.annotation_is_deterministic,
    "E2": other_exports_agree,
    "E3": checks_engine.result_survives,
    "E4": checks_engine.nothing_else_is_touched,
    "R1": checks_reference.graph_is_exact,
    "R2": checks_reference.close_to_float,
    "R3": checks_reference.requantizing_changes_nothing,
    "R4": checks_reference.scales_with_its_inputs,
    "R5": checks_reference.channels_permute,
    "R6": checks_reference.batch_splits,
    "R7": checks_reference.zero_has_a_code,
    "K1": checks_kernel.bit_exact,
    "K2": checks_kernel.near_ties,
    "K3": checks_kernel.ties,
    "K4": checks_kernel.no_saturation,
    "K5": checks_kernel.within_bounds,
    "K6": checks_kernel.within_bounds,
    "K7": checks_kernel.within_bounds,
    "D1": checks_delegation.runs,
    "D2": checks_delegation.only_integers,
    "D3": checks_delegation.optimizer_changes_nothing,
    "D4": checks_delegation.latency,
    "M1": checks_models.model_holds,
}

_DYNAMIC: Mapping[str, Callable[[DynamicBench], Finding]] = {
    "C1": checks_dynamic_contract.claimed_is_quantized,
    "C2": checks_dynamic_contract.legal,
    "C4": checks_dynamic_contract.fusion_is_sound,
    "E1": checks_engine.annotation_is_deterministic,
    "E2": checks_dynamic_contract.other_exports_agree,
    "E3": checks_engine.result_survives,
    "E4": checks_engine.nothing_else_is_touched,
    "R1": checks_dynamic_reference.graph_is_exact,
    "R2": checks_dynamic_reference.close_to_float,
    "R6": checks_dynamic_reference.batch_splits,
    "K1": checks_dynamic_kernel.bit_exact,
    "K2": checks_dynamic_kernel.within_bounds,
    "K3": checks_dynamic_kernel.ties,
    "K5": checks_dynamic_kernel.within_bounds,
    "K6": checks_dynamic_kernel.within_bounds,
    "K7": checks_dynamic_kernel.within_bounds,
    "D1": checks_dynamic_contract.runs,
    "D2": checks_dynamic_contract.only_integers,
}
"""The same checks where activations are quantized at run time: results are float32, and no codes come out."""


def evaluate(scenario: Scenario, backend: Backend, checks: Collection[str], seed: int) -> list[Outcome]:
    """Look at a scenario from the sides that `checks` names; return an outcome for each of them that it has.

    Args:
        scenario: The scenario.
        backend: What is under test.
        checks: Names of checks, such as "K3".
        seed: Of all random data.
    """
    dynamic = Scheme.named(scenario.scheme).dynamic
    backend = backend.part_of(scenario.scheme)
    bench = (DynamicBench if dynamic else Bench)(scenario, backend, seed)
    refused: str | None = None
    outcomes = []
    for place, check in enumerate(check for check in scenario.checks if check in checks):
        start = time.perf_counter()
        if place == 0 and not scenario.subject.startswith("model."):
            refused = _refusal(bench)
        finding = _refused(refused) if refused is not None else _found(bench, check)
        outcome = Outcome(
            id=scenario.case_id(check),
            status=finding.status,
            message=finding.message,
            signature=finding.signature,
            numbers=finding.numbers,
            seconds=time.perf_counter() - start,
        )
        outcomes.append(declared(outcome, backend.profile))
    return outcomes


def _refusal(bench: Bench) -> str | None:
    try:
        return checks_contract.refusal(bench)
    except Exception:  # noqa: BLE001  # the checks themselves will meet it, and say so
        return None


def _refused(reason: str) -> Finding:
    return short(Status.UNSUPPORTED, "refused", f"the quantizer leaves it float and says why: {reason}")


def _found(bench: Bench, check: str) -> Finding:
    """Run a check; what it raises becomes a finding too."""
    try:
        if isinstance(bench, DynamicBench):
            return _DYNAMIC[check](bench)
        return _CHECKS[check](bench)
    except NothingAnnotatedError as e:
        if check.startswith("C"):
            return failed("nothing annotated", str(e))
        return short(Status.UNKNOWN, "nothing annotated", f"nothing is quantized, so there is nothing to see: {e}")
    except LoweringError as e:
        if check == "D1":
            return failed("lowering", str(e))
        return short(Status.UNKNOWN, "lowering", f"there is no program to look at: {e}")
    except UnsupportedError as e:
        return short(Status.UNKNOWN, "no exact form", str(e))
    except GraphError as e:
        return short(Status.UNKNOWN, "graph", str(e))
    except QuantizerError as e:
        return failed(type(e).__name__, f"{type(e).__name__}: {e}")
    except Exception as e:  # noqa: BLE001  # a crash is this case's outcome, and the run goes on
        place = traceback.extract_tb(e.__traceback__)[-1]
        words = f"{type(e).__name__}: {e} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno} in {place.name})"
        return short(Status.ERROR, type(e).__name__, words)


def declared(outcome: Outcome, profile: Profile | None) -> Outcome:
    """Turn a shortfall that the profile declares into UNSUPPORTED; a crash of the whole process too."""
    if profile is None or not outcome.status.falls_short:
        return outcome
    for pattern, reason in profile.unsupported.items():
        if fnmatch.fnmatchcase(outcome.id, pattern):
            message = f"declared: {reason}; found: {outcome.message}"
            return replace(outcome, status=Status.UNSUPPORTED, signature="declared", message=message)
    return outcome
