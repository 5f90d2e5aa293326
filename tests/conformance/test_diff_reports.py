"""Two reports are compared case by case, and what got worse comes first."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import sample_report

from quantizer_sdk.conformance.diff_reports import Kind, diff_reports
from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.conformance.report import Report

ABOUT = {"backend": "b", "runner": "r", "profile": None, "environment": {"cpu": "x"}, "seed": 1, "selection": {}}


def report(cases, **changes):
    """Return a report of cases named by letters: {"a": Status.PASS, "b": (Status.FAIL, signature, numbers)}."""
    outcomes = []
    for name, what in sorted(cases.items()):
        status, signature, numbers = what if isinstance(what, tuple) else (what, "", {})
        message = "" if status is Status.PASS else f"{name} found"
        outcomes.append(
            Outcome(id=f"L0.C1/{name}", status=status, message=message, signature=signature, numbers=numbers)
        )
    return Report(**{**ABOUT, "outcomes": tuple(outcomes), **changes})


def kinds(difference):
    return {change.id.split("/")[1]: change.kind for change in difference.changes}


P, F, E, W, U = Status.PASS, Status.FAIL, Status.ERROR, Status.WAIVED, Status.UNSUPPORTED


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (P, F, Kind.REGRESSED),
        (P, W, Kind.REGRESSED),
        (P, U, Kind.REGRESSED),
        (W, F, Kind.REGRESSED),
        (U, E, Kind.REGRESSED),
        (F, P, Kind.MENDED),
        (E, W, Kind.MENDED),
        (W, P, Kind.MENDED),
        (F, E, Kind.CHANGED),
        (W, U, Kind.CHANGED),
        ((F, "x", {}), (F, "y", {}), Kind.CHANGED),
        ((P, "", {"z": 1}), (P, "", {"z": 2}), Kind.FIGURES),
        ((F, "", {"z": 1}), (F, "", {}), Kind.FIGURES),
    ],
)
def test_what_became_of_a_case(before, after, kind):
    difference = diff_reports(report({"a": before, "b": P}), report({"a": after, "b": P}))
    assert kinds(difference) == {"a": kind}
    assert difference.unchanged == 1
    assert difference.worse == (kind is Kind.REGRESSED)


def test_new_and_gone_cases():
    difference = diff_reports(report({"a": P, "b": F}), report({"c": P, "d": F}))
    assert kinds(difference) == {"a": Kind.GONE, "b": Kind.GONE, "c": Kind.NEW, "d": Kind.REGRESSED}
    assert difference.worse


def test_cases_that_a_smaller_selection_leaves_out_are_not_worse():
    full = report({"a": P, "b": P})
    assert diff_reports(full, report({"a": P})).worse
    narrowed = diff_reports(full, report({"a": P}, selection={"select": "L0.C1/a"}))
    assert narrowed.narrowed
    assert not narrowed.worse
    assert kinds(narrowed) == {"b": Kind.GONE}


def test_changed_figures_are_told_before_and_after():
    before = report({"a": (P, "", {"same": 1, "z": 1.5, "old": [1]})})
    after = report({"a": (F, "off", {"same": 1, "z": 2.5, "new": {"k": 2}})})
    (change,) = diff_reports(before, after).changes
    assert change.figures == {"new": (None, {"k": 2}), "old": ([1], None), "z": (1.5, 2.5)}
    text = diff_reports(before, after).to_text()
    assert "z: 1.5 → 2.5" in text
    assert 'new: none → {"k": 2}' in text
    assert "L0.C1/a: PASS → FAIL" in text
    assert "a found" in text


def test_what_else_differs_is_told():
    before = report({"a": P}, flaws=("expired",), environment={"cpu": "x", "isa": "avx2"})
    after = report({"a": P}, seed=2, runner=None, environment={"cpu": "y"})
    assert diff_reports(before, after).context == {
        "verdict": ("quantconf-1/L0[b, avx2]", "quantconf-1/L0[b]"),
        "passed": ("no", "yes"),
        "runner": ("r", "none"),
        "seed": ("1", "2"),
        "flaws": ("expired", "none"),
        "environment.cpu": ("x", "y"),
        "environment.isa": ("avx2", None),
    }


def test_regressions_come_first_in_every_form():
    before = report({"a": (P, "", {"z": 1}), "b": F, "c": P, "d": P})
    after = report({"a": (P, "", {"z": 2}), "b": P, "d": E, "e": P})
    difference = diff_reports(before, after)
    order = ["L0.C1/d", "L0.C1/c", "L0.C1/b", "L0.C1/e", "L0.C1/a"]
    assert [change.id for change in difference.changes] == order
    for text in (difference.to_text(), difference.to_markdown(), json.dumps(difference.to_dict())):
        places = [text.index(id_) for id_ in order]
        assert places == sorted(places)
    summary = "1 regressed, 1 gone, 1 mended, 1 new, 1 other figures, 0 unchanged"
    assert difference.to_text().endswith(f"\n{summary}\n")
    assert difference.to_markdown().startswith(f"**{summary}**\n")


def test_markdown_keeps_messages_apart_from_its_own_marks():
    before = report({"a": P}, environment={"cpu": "one"})
    message = "```\n# | <b>"
    failed = Outcome(id="L0.C1/a", status=F, message=message)
    after = dataclasses.replace(before, outcomes=(failed,), environment={"cpu": "a|<b>\nc"})
    text = diff_reports(before, after).to_markdown()
    assert "| environment.cpu | one | a\\|&lt;b> c |" in text
    assert text.count("```") == 2


def test_long_lists_are_cut_in_text_and_whole_in_json():
    before = report({f"case{place:03d}": P for place in range(120)})
    after = report({f"case{place:03d}": F for place in range(120)})
    difference = diff_reports(before, after)
    assert difference.to_text().count("PASS → FAIL") == 50
    assert "  and 70 more\n" in difference.to_text()
    assert "\nand 70 more\n" in difference.to_markdown()
    assert len(difference.to_dict()["changes"]) == 120


seeds = st.integers(0, 3)
sizes = st.sampled_from([0, 30, 60])


@given(sizes, seeds, sizes, seeds)
def test_every_case_is_told_once(size, seed, other_size, other_seed):
    before, after = sample_report(size, seed=seed), sample_report(other_size, seed=other_seed)
    difference = diff_reports(before, after)
    first, second = ({outcome.id for outcome in x.outcomes} for x in (before, after))
    assert len({change.id for change in difference.changes}) == len(difference.changes)
    assert len(difference.changes) + difference.unchanged == len(first | second)
    assert {change.id for change in difference.of(Kind.GONE)} == first - second
    assert json.loads(json.dumps(difference.to_dict(), allow_nan=False))["worse"] == difference.worse
    back = diff_reports(after, before)
    rose = {change.id for change in difference.of(Kind.MENDED)}
    assert rose == {change.id for change in back.of(Kind.REGRESSED) if change.before is not None}


def test_a_report_does_not_differ_from_itself_run_slower():
    before = sample_report(100)
    slow = tuple(dataclasses.replace(outcome, seconds=outcome.seconds + 9) for outcome in before.outcomes)
    difference = diff_reports(before, dataclasses.replace(before, outcomes=slow, seconds=99.0))
    assert difference.changes == ()
    assert difference.context == {}
    assert difference.to_text() == "100 unchanged\n"
