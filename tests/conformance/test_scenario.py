"""Which cases a table has."""

from collections import Counter

import torch
from quantizers import ADD, LINEAR, RELU

from quantizer_sdk import ACT, Row, Step, find_backend, ops
from quantizer_sdk.conformance.families import row_scenarios
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status
from quantizer_sdk.conformance.suite import Selection, scenarios_of

aten = torch.ops.aten
CAT = Step(ops(aten.cat.default), (ACT,))
ROWS = (Row("linear_relu", (LINEAR, RELU)), Row("linear", (LINEAR,)), Row("add", (ADD,)))


def ids(scenarios):
    return [id_ for scenario in scenarios for id_ in scenario.case_ids()]


def test_ids_are_legal_and_none_occurs_twice():
    found = ids(scenarios_of(find_backend("xnnpack")))
    assert max(Counter(found).values()) == 1
    for id_ in found:
        Outcome(id=id_, status=Status.PASS)


def test_xnnpack_has_thousands_of_cases_and_every_check_has_some():
    found = ids(scenarios_of(find_backend("xnnpack")))
    assert len(found) >= 2000
    # XNNPACK's runner has no optimizer to switch off.
    assert {id_.split("/")[0].split(".")[1] for id_ in found} == set(CHECKS) - {"D3"}


def test_every_row_of_xnnpacks_table_is_a_family():
    backend = find_backend("xnnpack")
    chains = {scenario.targets for scenario in scenarios_of(backend)}
    for row in backend.quantizer().rows:
        assert any(
            len(chain) == len(row.steps) and all(t in step.targets for t, step in zip(chain, row.steps, strict=True))
            for chain in chains
        ), row.name


def test_cases_are_enumerated_in_the_same_order_each_time():
    assert row_scenarios(ROWS, ("s8",)) == row_scenarios(ROWS, ("s8",))


def test_cases_grow_with_the_rows_and_no_faster():
    one, three = (len(ids(row_scenarios(rows, ("s8",)))) for rows in (ROWS[2:], ROWS))
    assert one < three <= 3 * one * 2


def test_an_op_that_only_moves_codes_is_fed_by_one_that_computes():
    scenarios = row_scenarios((*ROWS, Row("cat", (CAT,), share=True)), ("s8",))
    (first, *_) = (scenario for scenario in scenarios if scenario.subject == "aten.cat")
    assert [call.target for call in first.program.calls] == [aten.add.Tensor] * 2 + [aten.cat.default]
    assert first.targets == (aten.cat.default,)


def test_further_configurations_are_for_ops_with_weights():
    scenarios = row_scenarios(ROWS, ("s8.pc", "s8.pt"))
    assert {s.subject for s in scenarios if s.scheme == "s8.pt"} == {"aten.linear", "aten.linear+aten.relu"}


def test_checks_that_nothing_can_answer_have_no_cases():
    without = frozenset({"K1", "K2", "K3", "K4", "K5", "K6", "K7", "D1", "D2", "D3", "D4"})
    assert {id_[:2] for id_ in ids(row_scenarios(ROWS, ("s8",), without))} == {"L0", "L1", "L2"}


def test_unary_and_binary_ops_are_swept_over_all_codes():
    sweeps = {
        s.subject: s.program.inputs for s in row_scenarios((*ROWS, Row("relu", (RELU,))), ("s8",)) if s.exhaustive
    }
    assert sweeps == {"aten.add": ((256, 1), (1, 256)), "aten.relu": ((256,),)}


def test_a_selection_takes_levels_patterns_and_ids():
    scenarios = row_scenarios(ROWS, ("s8",))
    assert {id_[:2] for id_ in ids(Selection(level="L1").of(scenarios))} == {"L0", "L1"}
    k3 = ids(Selection(patterns=("L3.K3/aten.add/*",)).of(scenarios))
    assert k3
    assert all(id_.startswith("L3.K3/aten.add/") for id_ in k3)
    assert ids(Selection(ids=frozenset(k3[:1])).of(scenarios)) == k3[:1]


def test_quick_is_one_scenario_an_op():
    quick = Selection(quick=True).of(row_scenarios(ROWS, ("s8",)))
    assert [scenario.subject for scenario in quick] == ["aten.linear", "aten.add"]
