"""Random graphs: the same on every machine, runnable, varied, and passed by a healthy backend."""

import hashlib
from collections import Counter

import pytest
import torch
from planted_backends import HEALTHY
from quantizers import ADD, CONV, LINEAR, RELU

from quantizer_sdk import ACT, Row, Step, ops
from quantizer_sdk.conformance.bench import export
from quantizer_sdk.conformance.choices import Choices
from quantizer_sdk.conformance.evaluate import evaluate
from quantizer_sdk.conformance.fuzz import fuzz_scenarios, random_program
from quantizer_sdk.conformance.outcome import Outcome, Status

aten = torch.ops.aten
ROWS = (
    Row("conv_relu", (CONV, RELU)),
    Row("linear", (LINEAR,)),
    Row("add", (ADD,)),
    Row("mul", (Step(ops(aten.mul.Tensor), (ACT, ACT)),)),
    Row("relu", (RELU,)),
    Row("cat", (Step(ops(aten.cat.default)),), share=True),
    Row("move", (Step(ops(aten.view.default, aten.permute.default)),), share=True),
)
PROGRAMS = [
    scenario.program
    for scenario in fuzz_scenarios(HEALTHY.quantizer().rows, ("s8",), frozenset(), count=40)
    if scenario.data == "generic"
]


def scenarios(rows=ROWS, **options):
    return fuzz_scenarios(rows, ("s8.pc", "s8.pt"), frozenset(), **options)


def test_a_seed_gives_the_same_graphs_and_more_of_them_change_none():
    few = scenarios(count=6)
    assert few == scenarios(count=12)[: len(few)]
    assert {s.program for s in few}.isdisjoint({s.program for s in scenarios(seed=1, count=6)})


def test_graphs_are_the_same_on_every_machine():
    text = "\n".join(f"{s.case_ids()} {s.program.inputs} {s.program.source()}" for s in scenarios(count=20))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "4ad27af67fc3d27cb63b4486f4ebdb286801d84336559eb29d33fc161ac527c1"
    )


def test_ids_are_legal_and_name_one_case_each():
    ids = [id_ for seed in (0, 7) for scenario in scenarios(seed=seed) for id_ in scenario.case_ids()]
    assert len(ids) == len(set(ids))
    assert all(Outcome(id=id_, status=Status.PASS) for id_ in ids)
    assert ids[0].startswith("L0.C1/graph.0000/s8.p")


@pytest.mark.parametrize("program", PROGRAMS[:6], ids=lambda program: f"{len(program.calls)}_calls")
def test_graphs_export_and_run(program):
    inputs = [torch.randn(shape) for shape in program.inputs]
    module = program.module()
    results = module(*[tensor.clone() for tensor in inputs])
    results = results if isinstance(results, tuple) else (results,)
    assert [tuple(result.shape) for result in results] == [program.shapes()[ref.index] for ref in program.results]
    exported = export(module, inputs)
    again = exported(*inputs)
    assert all(map(torch.equal, results, again if isinstance(again, tuple) else (again,)))


def test_graphs_are_small_and_varied():
    assert all(2 <= len(program.calls) <= 15 and 1 <= len(program.inputs) <= 3 for program in PROGRAMS)
    reads = [Counter(ref for call in program.calls for ref in call.refs()) for program in PROGRAMS]
    assert sum(any(ref.kind == "v" and count > 1 for ref, count in read.items()) for read in reads) > 10
    assert any(ref.kind == "p" and count > 1 for read in reads for ref, count in read.items())
    assert any(len(program.results) == 2 for program in PROGRAMS)
    targets = {call.target for program in PROGRAMS for call in program.calls}
    assert {aten.conv2d.default, aten.linear.default, aten.add.Tensor, aten.pad.default, aten.relu_.default} <= targets


def test_a_further_row_changes_only_the_graphs_that_it_takes_part_in():
    unchanged = 0
    for number in range(40):
        program, chains = random_program(ROWS, Choices(number))
        if (aten.mul.Tensor,) not in chains:
            without = tuple(row for row in ROWS if row.name != "mul")
            assert random_program(without, Choices(number)) == (program, chains)
            unchanged += 1
    assert 5 < unchanged < 35


def test_an_op_that_writes_over_a_value_is_the_only_one_to_read_it():
    rows = (Row("relu", (Step(ops(aten.relu_.default)),)), Row("add", (Step(ops(aten.add_.Tensor, aten.add.Tensor)),)))
    programs = [scenario.program for scenario in scenarios(rows, count=20)]
    written = 0
    for program in programs:
        for call in program.calls:
            if call.target._schema.is_mutable:
                operand = next(call.refs())
                assert operand.kind == "v"
                assert sum(ref == operand for other in program.calls for ref in other.refs()) == 1
                written += 1
    assert written


def test_a_table_adapts():
    assert scenarios((Row("unknown", (Step(ops(aten.cumsum.default)),)),)) == ()
    assert {call.target for s in scenarios((Row("relu", (RELU,)), Row("add", (ADD,)))) for call in s.program.calls} == {
        aten.relu.default,
        aten.add.Tensor,
    }


def test_checks_that_nothing_can_answer_are_left_out():
    found = fuzz_scenarios(ROWS, ("s8",), frozenset({"K1", "K2", "K3", "D1", "D2", "D3"}), count=3)
    assert {check for scenario in found for check in scenario.checks} == {"C1", "C2", "C3", "C4", "R1"}
    declared = scenarios(count=30, unsupported={"L4.D2/aten.mul/*": "computed in float"})
    for scenario in declared:
        multiplies = any(call.target is aten.mul.Tensor for call in scenario.program.calls)
        assert not (multiplies and "D2" in scenario.checks)
    assert any("D2" in scenario.checks for scenario in declared)


SMALL = [row for row in HEALTHY.quantizer().rows if row.name in {"relu", "add", "mul", "linear", "cat", "max_pool"}]


@pytest.mark.parametrize(
    "scenario", scenarios(SMALL, count=2), ids=lambda scenario: f"{scenario.subject}-{scenario.data}"
)
def test_a_healthy_backend_passes(scenario):
    outcomes = evaluate(scenario, HEALTHY, scenario.checks, seed=0)
    assert [outcome for outcome in outcomes if outcome.status is not Status.PASS] == []
