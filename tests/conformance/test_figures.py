"""Figures that contradict each other, or the status that stands beside them, are found."""

import pytest

from quantizer_sdk.conformance.figures import ALWAYS, FIGURES, TO_PASS, broken_rules
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status

WELL = {
    "elements": 100,
    "mismatches": 3,
    "allowed": 4,
    "outside": 0,
    "near_tie": 4,
    "max_lsb": 1,
    "mean_error": 0.01,
    "z": 0.5,
    "sqnr_db": 38.0,
    "baseline_db": 39.0,
    "allowed_db": 3.0,
    "delta_max": 1e-6,
    "ties": 2,
    "distinct_codes": 90,
    "saturated": 0.1,
    "error_histogram": {"-1": 1, "0": 97, "1": 2},
    "half_distances": {"edges": [0.0, 0.1, 0.5], "counts": [5, 95], "mismatches": [3, 0]},
}


def broken(check="K5", status=Status.PASS, **changes):
    message = "" if status is Status.PASS else "found"
    numbers = {key: value for key, value in (WELL | changes).items() if value is not None}
    return broken_rules(Outcome(id=f"{CHECKS[check][0]}.{check}/x", status=status, message=message, numbers=numbers))


@pytest.mark.parametrize("check", list(CHECKS))
def test_figures_that_fit_break_no_rule(check):
    assert broken(check) == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"elements": 2, "error_histogram": None, "half_distances": None}, "no more mismatches than elements"),
        ({"outside": 4}, "no more codes outside than mismatches"),
        ({"near_tie": 101}, "no more near ties than elements"),
        ({"ties": 101}, "no more ties than elements"),
        ({"distinct_codes": 101}, "no more distinct codes than elements"),
        ({"max_lsb": 0, "error_histogram": None}, "a largest difference if and only if there are mismatches"),
        ({"error_histogram": {"-1": 1, "0": 96, "1": 2}}, "as many codes in the error histogram as elements"),
        (
            {"error_histogram": {"-1": 1, "0": 98, "1": 1}},
            "as many codes in the error histogram beside 0 as mismatches",
        ),
        ({"error_histogram": {"-1": 1, "0": 97, "2": 2}}, "the largest difference that the error histogram shows"),
        ({"mean_error": -0.01}, "the mean of the error histogram"),
        ({"half_distances": {"edges": [0, 0.5, 0.1], "counts": [1, 1], "mismatches": [0, 0]}}, "ascending edges"),
        ({"half_distances": {"edges": [0, 0.5], "counts": [1, 1], "mismatches": [0, 0]}}, "ascending edges"),
        ({"half_distances": {"edges": [0, 0.5], "counts": [1], "mismatches": [2]}}, "no more mismatches than codes in"),
        ({"half_distances": {"edges": [0, 0.5], "counts": [101], "mismatches": [0]}}, "no more half-distances than"),
    ],
)
def test_figures_that_contradict_each_other_are_found_whatever_the_status(changes, told):
    for status in (Status.PASS, Status.FAIL, Status.MISTRUSTED):
        assert any(rule.startswith(told) for rule in broken(status=status, **changes)), status


@pytest.mark.parametrize(
    ("check", "changes", "told"),
    [
        ("K5", {"outside": 1}, "nothing outside of δ"),
        ("D3", {"allowed": 2}, "no more mismatches than allowed"),
        ("K1", {"allowed": None}, "no mismatches with what the profile predicts, unless some are allowed"),
        ("K1", {"distinct_codes": 1}, "more than one code in the output"),
        ("K2", {"near_tie": 2}, "no more mismatches than near ties"),
        ("R1", {"saturated": 1.0}, "more than one code in the output"),
        ("R2", {"sqnr_db": 35.9}, "a signal-to-noise ratio below the baseline by no more than is allowed"),
    ],
)
def test_figures_that_forbid_a_pass_are_found_and_are_legal_otherwise(check, changes, told):
    (rule,) = broken(check, **changes)
    assert rule.startswith(told)
    assert broken(check, status=Status.FAIL, **changes) == ()


def test_a_rule_of_one_check_does_not_bind_another():
    assert broken("R2", sqnr_db=35.9) != ()
    assert broken("M1", sqnr_db=35.9) == ()


def test_wide_bounds_allow_more_than_near_ties():
    assert broken("K2", near_tie=2, delta_max=0.5) == ()


def test_every_rule_speaks_of_known_figures_and_checks():
    assert TO_PASS.keys() <= {"*", *CHECKS}
    for rule in [*ALWAYS, *(rule for rules in TO_PASS.values() for rule in rules)]:
        assert set(rule.needs) <= set(FIGURES), rule.states
