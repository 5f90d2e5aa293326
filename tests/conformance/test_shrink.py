"""Failing graphs are made small: to the calls, the shapes and the codes without which nothing fails."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from planted_backends import CATS, FLOAT_SUM, OFF_BY_ONE, UNSHARED_CAT

from quantizer_sdk.conformance.bench import Bench, input_quantizes
from quantizer_sdk.conformance.edits import cut_at, extracted, pruned
from quantizer_sdk.conformance.evaluate import evaluate
from quantizer_sdk.conformance.fuzz import fuzz_scenarios
from quantizer_sdk.conformance.minimize import minimize, nearer
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.program import Call, Program, Ref
from quantizer_sdk.conformance.reduce import evidence_of
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.shrink import shrink

aten = torch.ops.aten
X, Y = Ref("x", 0), Ref("x", 1)
V = [Ref("v", place) for place in range(9)]

LONG = Program(
    inputs=((2, 6, 5, 4), (2, 6, 5, 4)),
    parameters=((8, 3, 3, 3), (8,), (7, 4), (7,)),
    calls=(
        Call(aten.add.Tensor, (X, Y)),
        Call(aten.relu.default, (V[0],)),
        Call(aten.conv2d.default, (V[1], Ref("p", 0), Ref("p", 1), (1, 1), (1, 1), (1, 1), 2)),
        Call(aten.mul.Tensor, (V[2], V[2])),
        Call(aten.linear.default, (V[3], Ref("p", 2), Ref("p", 3))),
        Call(aten.sub.Tensor, (V[1], Y)),
    ),
    outputs=(V[4], V[5]),
)


def scenario_of(program, data="zp_odd"):
    checks = ("K1",)
    return Scenario(
        subject="graph", scheme="s8.pc", data=data, shape="x", program=program, length=len(program.calls), checks=checks
    )


def shrunk(program, fails, **options):
    """Shrink where `fails` tells of a program whether it still does."""
    seen = []

    def first_failing(candidates):
        seen.extend(candidates)
        return next((place for place, it in enumerate(candidates) if fails(it.program)), None)

    return shrink(scenario_of(program), first_failing, **options), seen


def calls_of(program, target):
    return [call for call in program.calls if call.target is target]


def test_one_guilty_op_is_left_alone_on_one_element():
    small, _ = shrunk(LONG, lambda program: bool(calls_of(program, aten.mul.Tensor)))
    assert small.program == Program(inputs=((1, 1, 1, 1),), calls=(Call(aten.mul.Tensor, (X, X)),))
    assert small.data == "generic"
    assert small.length == 1


def test_two_ops_that_fail_only_together_stay_together():
    def fails(program):
        return any(
            ref.kind == "v" and program.calls[ref.index].target is aten.relu.default
            for call in calls_of(program, aten.conv2d.default)
            for ref in call.refs()
        )

    small, _ = shrunk(LONG, fails)
    assert [call.target for call in small.program.calls] == [aten.relu.default, aten.conv2d.default]
    assert small.program.inputs == ((1, 1, 1, 1),)
    assert small.program.parameters == ((1, 1, 1, 1),), "without the bias, with a kernel of 1x1 and one group"


def test_sizes_that_matter_stay():
    def fails(program):
        return any(
            program.inputs[0][1] // 2 >= 3 and call.args[6] == 2 for call in calls_of(program, aten.conv2d.default)
        )

    small, _ = shrunk(LONG, fails)
    assert small.program.inputs == ((1, 6, 1, 1),)
    assert small.program.parameters[0][:2] == (2, 3)


def test_what_stands_far_apart_is_found_by_taking_calls_out():
    def fails(program):
        targets = [call.target for call in program.calls]
        return {aten.add.Tensor, aten.linear.default} <= set(targets)

    small, _ = shrunk(LONG, fails)
    assert {call.target for call in small.program.calls} == {aten.add.Tensor, aten.linear.default}


def test_no_candidate_is_judged_beyond_the_limit():
    def fails(program):
        return len(program.calls) > 4

    small, seen = shrunk(LONG, fails, most=7)
    assert len(seen) <= 7
    assert fails(small.program)


def test_candidates_take_their_operands():
    _, seen = shrunk(LONG, lambda program: len(program.calls) > 1)
    assert all(0 not in shape for scenario in seen for shape in scenario.program.shapes())


def test_parts_of_a_program_compute_what_they_did():
    inputs = [torch.randn(shape) for shape in LONG.inputs]
    module = LONG.module(seed=3)
    whole, _ = module(*inputs)
    tail = cut_at(LONG, (V[1],))
    assert tail.inputs == ((2, 6, 5, 4), (2, 6, 5, 4))
    relu = (inputs[0] + inputs[1]).relu()
    again, _ = tail.module(seed=3)(inputs[1], relu)
    assert torch.equal(whole, again)
    assert [call.target for call in extracted(LONG, (2, 3)).calls] == [aten.conv2d.default, aten.mul.Tensor]
    assert pruned(replace(LONG, outputs=(V[1],))) == Program(inputs=LONG.inputs, calls=LONG.calls[:2])


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_only_the_necessary_items_are_kept(needed, others):
    items = sorted(needed | others)
    trials = []

    def holds(kept):
        trials.append(1)
        return needed <= set(kept)

    assert minimize(items, holds) == sorted(needed)
    assert len(trials) <= 2 + 2 * len(items) + 12 * len(needed) * max(1, len(items)).bit_length()


def test_numbers_on_the_way_to_a_goal():
    assert nearer(100, 0) == [1, 50, 99]
    assert nearer(-3, 0) == [-1, -2]
    assert nearer(6, 5) == []


def failing(backend, check, *names):
    """Return the first random graph of some rows on which a check fails."""
    rows = [row for row in backend.quantizer().rows if row.name in names]
    for scenario in fuzz_scenarios(rows, tuple(backend.schemes()), frozenset(), count=12):
        if check in scenario.checks:
            (outcome,) = evaluate(scenario, backend, (check,), 0)
            if outcome.status is Status.FAIL:
                return replace(scenario, checks=(check,))
    return pytest.fail("fuzzing finds nothing")


def reproduce(backend, scenario):
    def first_failing(candidates):
        found = (evaluate(candidate, backend, candidate.checks, 0)[0].status for candidate in candidates)
        return next((place for place, status in enumerate(found) if status is Status.FAIL), None)

    return shrink(scenario, first_failing)


def test_a_concatenation_of_different_scales_is_found_and_left_with_what_feeds_it():
    small = reproduce(UNSHARED_CAT, failing(UNSHARED_CAT, "C3", "relu", "conv", "linear", "cat", "mul")).program
    assert len(small.calls) <= 2
    assert small.calls[-1].target in CATS
    # Two operands, for one tensor joined with itself is refused; a range of its own takes two elements of one of them.
    assert sum(torch.Size(shape).numel() for shape in small.inputs) <= 3


def test_a_sum_left_float_is_found_alone():
    small = reproduce(FLOAT_SUM, failing(FLOAT_SUM, "C1", "relu", "linear", "add", "max_pool")).program
    assert aten.add.Tensor in [call.target for call in small.calls]
    assert len(small.calls) <= 2


@pytest.fixture(scope="module")
def guilty():
    scenario = failing(OFF_BY_ONE, "K1", "relu", "mul", "cat")
    assert len(scenario.program.calls) > 1
    return scenario


def test_products_that_are_off_by_one_are_found_alone(guilty):
    small = reproduce(OFF_BY_ONE, guilty)
    (call,) = small.program.calls
    assert call.target in {aten.mul.Tensor, aten.mul_.Tensor}
    assert set(small.program.inputs) <= {(1,) * len(small.program.inputs[0])}


def test_evidence_from_a_large_graph_is_the_kernel_by_itself_on_zeros(guilty):
    evidence = evidence_of(Bench(guilty, OFF_BY_ONE, 0), "K1")
    assert bool((evidence.actual == evidence.expected + 1).all())
    targets = [node.target for node in evidence.model.graph.nodes if str(node.target).startswith("aten")]
    assert targets in ([aten.mul.Tensor], [aten.mul_.Tensor])
    zeros = [node.args[2] for node in input_quantizes(evidence.model)]
    assert all(bool((codes == zero).all()) for codes, zero in zip(evidence.inputs, zeros, strict=True))
