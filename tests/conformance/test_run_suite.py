"""Runs of the suite on small quantizers: verdicts, crashes, hangs, resumed and selected runs."""

import json
import re

import pytest

from quantizer_sdk import BackendError
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.plug import load_backend
from quantizer_sdk.conformance.run import Settings, run_suite
from quantizer_sdk.conformance.suite import Selection, scenarios_of

RELU = "tiny_backends:OnlyRelu"


def run(backend=RELU, *, patterns=("*/generic/*",), level="L2", **settings):
    selection = Selection(level=level, patterns=patterns)
    return run_suite(Settings(backend=backend, selection=selection, workers=1, **settings))


@pytest.fixture(scope="module")
def healthy():
    return run()


def test_a_healthy_quantizer_reaches_l2_and_no_more_for_want_of_a_runner(healthy):
    assert healthy.passed
    assert healthy.level == "L2"
    assert healthy.runner is None
    assert len(healthy.outcomes) > 40


def test_two_runs_with_one_seed_are_equal_but_for_times(healthy):
    again = run()
    assert again == healthy
    first, second = (re.sub(r'"seconds": [0-9.]+', "", report.to_json()) for report in (healthy, again))
    assert first == second


def test_another_seed_is_another_run(healthy):
    other = run(seed=1, patterns=("L2.R1/*/generic/*",))
    by_id = {outcome.id: outcome for outcome in healthy.outcomes}
    assert any(by_id[outcome.id].numbers != outcome.numbers for outcome in other.outcomes)


def test_a_quantizer_that_annotates_nothing_fails():
    report = run("tiny_backends:Nothing", patterns=("L0.C1/*/generic/2d",))
    assert not report.passed
    assert report.level is None
    assert {outcome.status for outcome in report.outcomes} == {Status.FAIL}
    assert "annotated none of the model's" in report.outcomes[0].message


def test_a_result_left_float_fails_by_name():
    report = run("tiny_backends:Unquantized", patterns=("L0.C1/*/generic/4d",))
    (outcome,) = report.outcomes
    assert outcome.status is Status.FAIL
    assert "relu (aten.relu.default) computes in float" in outcome.message


@pytest.mark.parametrize(
    ("backend", "message"),
    [("tiny_backends:Crashes", "the worker died"), ("tiny_backends:Hangs", "the worker was killed after 15 s")],
)
def test_a_crash_or_a_hang_is_that_cases_error_and_the_run_goes_on(backend, message):
    report = run(backend, patterns=("L0.C[12]/*/generic/1d", "L0.C[12]/*/generic/4d"), timeout=15.0)
    found = {outcome.id.rsplit("/", 1)[1]: outcome for outcome in report.outcomes}
    assert report.complete
    assert found["1d"].status is Status.ERROR
    assert message in found["1d"].message
    assert found["4d"].status is Status.PASS


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(tmp_path, healthy):
    journal = tmp_path / "journal.jsonl"
    seen = []

    class StopError(Exception):
        pass

    def interrupt(done, total, last):
        seen.append(done)
        if done > total // 2:
            raise StopError

    with pytest.raises(StopError):
        run_suite(Settings(backend=RELU, selection=SELECTION, workers=1, journal=journal), interrupt)
    lines = journal.read_text().splitlines()
    assert len(lines) - 1 >= seen[-1]
    journal.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][: len(lines[-1]) // 2])  # stopped while writing
    begun = []
    report = run_suite(
        Settings(backend=RELU, selection=SELECTION, workers=1, journal=journal), lambda done, *_: begun.append(done)
    )
    assert begun[0] == len(lines) - 2
    assert report == healthy
    assert not journal.exists()


SELECTION = Selection(level="L2", patterns=("*/generic/*",))


def test_the_journal_of_another_run_is_not_taken_for_this_ones(tmp_path):
    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"suite": "another"}) + "\n" + json.dumps({"id": "nonsense"}) + "\n")
    assert run(patterns=("L0.C1/*/generic/4d",), journal=journal).passed


def test_fail_fast_stops_and_says_that_it_did():
    report = run("tiny_backends:Unquantized", patterns=("L0.*/generic/*",), fail_fast=True)
    assert not report.complete
    assert not report.passed
    assert len(report.outcomes) < 20


def test_only_what_fell_short_is_run_again():
    ids = frozenset({"L0.C1/aten.relu/default/generic/4d"})
    report = run_suite(Settings(backend=RELU, selection=Selection(ids=ids), workers=1))
    assert [outcome.id for outcome in report.outcomes] == sorted(ids)


def test_no_case_at_all_is_a_failure():
    report = run(patterns=("nothing like that",))
    assert report.outcomes == ()
    assert not report.passed


def test_a_quantizer_without_a_table_is_judged_on_what_it_claims():
    backend = load_backend("tiny_backends:Plain")
    subjects = {s.subject for s in scenarios_of(backend) if not s.subject.startswith("graph.")}
    assert subjects == {"aten.add", "aten.linear", "aten.linear+aten.relu", "aten.relu"}
    assert run("tiny_backends:Plain", patterns=("*/aten.relu/*/generic/4d",)).passed


def test_a_quantizer_that_claims_no_op_has_no_cases():
    with pytest.raises(BackendError, match=r"ClaimsNothing claims none of the \d+ ops"):
        scenarios_of(load_backend("tiny_backends:ClaimsNothing"))


def test_without_a_profile_no_bit_is_predicted_so_l3_is_not_reached():
    report = run_suite(
        Settings(
            backend="tiny_backends:OnlyRelu",
            runner="xnnpack",
            selection=Selection(patterns=("*/generic/1d",), level="L3"),
            workers=1,
        )
    )
    (k1,) = (outcome for outcome in report.outcomes if outcome.id.startswith("L3.K1"))
    assert k1.status is Status.UNKNOWN
    assert not report.passed


def test_a_row_that_refuses_everything_does_not_pass_by_that():
    selection = Selection(level="L0")
    report = run_suite(Settings(backend="tiny_backends:Refuses", selection=selection, workers=1))
    assert {outcome.status for outcome in report.outcomes} == {Status.UNSUPPORTED}
    assert not report.passed
    assert report.flaws == ("row relu: the quantizer refuses every case of it, so nothing of it was looked at",)
