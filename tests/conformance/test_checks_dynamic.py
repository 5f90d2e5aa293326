"""Checks of gemms of run-time qparams: what they find in graphs and programs that are wrong in one thing."""

import dataclasses

import pytest
import torch

from quantizer_sdk.backend import Kernel
from quantizer_sdk.conformance import checks_dynamic_contract as contract
from quantizer_sdk.conformance import checks_dynamic_kernel as kernel
from quantizer_sdk.conformance import checks_dynamic_reference as reference
from quantizer_sdk.conformance.dynamic_bench import DynamicBench
from quantizer_sdk.conformance.evaluate import evaluate
from quantizer_sdk.conformance.mutants.healthy import healthy
from quantizer_sdk.conformance.mutants.judge import case_of
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.errors import GraphError

LINEAR = "aten.linear/d8.pc/generic/2d"


@pytest.fixture
def bench():
    return DynamicBench(case_of(LINEAR), healthy(), 0)


@pytest.mark.parametrize("check", [reference.graph_is_exact, reference.close_to_float, reference.batch_splits])
def test_a_right_graph_passes(bench, check):
    assert check(bench).status is Status.PASS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scale, zero: (scale * 1.000001, zero), "has scale"),
        (lambda scale, zero: (scale, zero + 1), "has zero point"),
        (lambda scale, zero: (scale.roll(1, 0), zero), "has scale"),
    ],
)
def test_qparams_that_are_not_those_of_the_row_are_found(bench, change, words):
    run = bench.float_runs[0]
    run.graph[bench.gemm.choose] = change(*run.graph[bench.gemm.choose])
    finding = reference.graph_is_exact(bench)
    assert finding.status is Status.FAIL
    assert words in finding.message


def test_a_code_off_by_one_is_found(bench):
    run = bench.float_runs[0]
    run.graph[bench.gemm.quantize] = (run.graph[bench.gemm.quantize].int() + 1).clamp(-128, 127).to(torch.int8)
    finding = reference.graph_is_exact(bench)
    assert finding.status is Status.FAIL
    assert "has code" in finding.message


def test_a_result_off_by_a_few_ulp_is_found(bench):
    run = bench.float_runs[0]
    output = bench.gemm.output
    run.graph[output] = run.graph[output] * (1 + 2.0**-16)
    finding = reference.graph_is_exact(bench)
    assert finding.status is Status.FAIL
    assert finding.signature == "outside"


def test_results_that_all_hold_a_code_next_to_a_tie_prove_nothing():
    ties = DynamicBench(case_of("aten.linear/d8.pc/rows_ties/2d"), healthy(), 0)
    assert kernel.ties(ties).status is Status.PASS
    finding = kernel.within_bounds(ties)
    assert finding.status is Status.MISTRUSTED
    assert finding.signature == "uninformative"


def test_values_that_lie_on_no_tie_are_said_to_be_none(bench):
    finding = kernel.ties(bench)
    assert (finding.status, finding.signature) == (Status.MISTRUSTED, "no ties")


def test_without_a_profile_no_bits_are_predicted_and_bounds_still_hold(bench):
    backend = dataclasses.replace(healthy(), profile=None)
    found = evaluate(bench.scenario, backend, ["K1", "K2"], 0)
    assert [(o.status, o.signature) for o in found] == [(Status.UNKNOWN, "no profile"), (Status.PASS, "")]


def test_a_profile_without_such_kernels_predicts_none(bench):
    backend = healthy()
    backend = dataclasses.replace(backend, profile=dataclasses.replace(backend.profile, dynamic=None))
    (outcome,) = evaluate(bench.scenario, backend, ["K1"], 0)
    assert (outcome.status, outcome.signature) == (Status.UNKNOWN, "no arithmetic")


def test_finite_rows_are_held_to_their_bound_where_nothing_predicts_them():
    scenario = case_of("aten.linear/d8.pc/nonfinite/2d")
    (outcome,) = evaluate(scenario, dataclasses.replace(healthy(), profile=None), ["K7"], 0)
    assert outcome.status is Status.PASS
    assert outcome.numbers["elements"] > 0


class _Reports:
    """A program that says which kernels it has."""

    size = 1

    def __init__(self, *kernels, left=()):
        self._kernels, self.non_delegated = kernels, left

    def kernels(self):
        return self._kernels

    def delegation(self):
        return self


GEMM = Kernel(name="gemm", inputs=("qdint8", "qcint8"), outputs=("fp32",), integer=False, conversion=False)
CONVERT = Kernel(name="convert", inputs=("fp32",), outputs=("qdint8",), integer=False, conversion=True)
FLOAT = Kernel(name="relu", inputs=("fp32",), outputs=("fp32",), integer=False, conversion=False)


@pytest.mark.parametrize(
    ("program", "signature"),
    [
        (_Reports(CONVERT, GEMM), ""),
        (_Reports(dataclasses.replace(FLOAT, moves=True), CONVERT, GEMM), ""),
        (_Reports(CONVERT, GEMM, FLOAT), "float island"),
        (_Reports(CONVERT, GEMM, left=("aten.relu",)), "float island"),
        (_Reports(CONVERT), "nothing ran"),
        (_Reports(), "nothing ran"),
    ],
)
def test_the_gemm_must_be_a_kernel_that_quantizes_at_run_time_and_nothing_else(bench, program, signature):
    bench._made.program = program
    assert contract.only_integers(bench).signature == signature


def test_a_graph_of_two_gemms_cannot_be_judged(bench):
    twice = DynamicBench(dataclasses.replace(bench.scenario, data="called_twice"), healthy(), 0)
    twice._made.converted = torch.fx.GraphModule({}, torch.fx.Graph())
    with pytest.raises(GraphError, match="0 gemms"):
        _ = twice.gemm


def test_an_op_without_a_weight_is_left_float_for_any_reason_and_a_gemm_for_one_of_its_row():
    (outcome,) = evaluate(case_of("aten.add/d8.pc/generic/4d"), healthy(), ["C1"], 0)
    assert (outcome.status, outcome.signature) == (Status.UNSUPPORTED, "refused")


def test_kinds_of_data_share_one_graph_and_others_do_not(bench):
    backend = healthy()
    first, second = (
        DynamicBench(case_of(f"aten.linear/d8.pc/{data}/2d"), backend, 0) for data in ("rows_ties", "rows_flat")
    )
    assert first.converted is second.converted
    assert first.program is second.program
    assert DynamicBench(case_of("aten.linear/d8.pc/unequal/2d"), backend, 0).converted is not first.converted
    assert bench.converted is not first.converted
