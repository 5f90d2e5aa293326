"""The suite's own test: every wrong backend is found out by the checks that it names, and the right ones by none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from quantizer_sdk import find_backend
from quantizer_sdk.conformance.mutants import MUTANTS, SOUND, Kind, Mutant, cases_of, judge_mutant, shortfalls
from quantizer_sdk.conformance.mutants.healthy import healthy
from quantizer_sdk.conformance.mutants.judge import case_of
from quantizer_sdk.conformance.mutants.page import Entry, published, render
from quantizer_sdk.conformance.mutants.range_mutants import RANGE_MUTANTS
from quantizer_sdk.conformance.outcome import CHECKS
from quantizer_sdk.errors import InvalidSpecError

PAGE = Path(__file__).parents[2] / "docs" / "conformance" / "mutants.md"
ON_KERNELS = frozenset(check for check, (level, _) in CHECKS.items() if level in {"L3", "L4"} and check != "D4")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_named_check_kills(mutant):
    judgement = judge_mutant(mutant, mutant.killers)
    assert not judgement.survived, str(judgement)


@pytest.mark.parametrize(("sound", "case"), [(name, case) for name in SOUND for case in cases_of(SOUND[name])])
def test_a_right_backend_passes_where_mutants_die(sound, case):
    found = [f"{outcome.status.value} {outcome.id}: {outcome.message}" for outcome in shortfalls(SOUND[sound](), case)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("case", [case for case in cases_of(healthy) if ON_KERNELS.intersection(case_of(case).checks)])
def test_real_kernels_pass_where_wrong_ones_die(case):
    found = shortfalls(find_backend("xnnpack"), case, ON_KERNELS)
    assert not found, "\n".join(f"{outcome.status.value} {outcome.id}: {outcome.message}" for outcome in found)


def test_there_are_enough_and_each_has_a_name_of_its_own():
    by_kind = {kind: sum(mutant.kind is kind for mutant in MUTANTS) for kind in Kind}
    assert by_kind[Kind.QUANTIZER] >= 40
    assert by_kind[Kind.KERNEL] >= 15
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_each_check_but_the_one_that_only_reports_kills_some_mutant():
    named = {check for mutant in MUTANTS for check in mutant.killers}
    assert named == set(CHECKS) - {"D4"}


def test_a_mutant_that_does_no_harm_survives():
    harmless = dataclasses.replace(RANGE_MUTANTS[0], name="harmless", make=healthy)
    judgement = judge_mutant(harmless, harmless.killers)
    assert judgement.survived == harmless.killers
    assert "harmless survives R2" in str(judgement)


@pytest.mark.parametrize(
    "changes", [{"killers": ("Z9",)}, {"killers": ()}, {"cases": ()}, {"name": "Not A Name"}, {"harm": "bad"}]
)
def test_a_mutant_without_a_check_a_case_a_name_or_a_harm_cannot_be(changes):
    with pytest.raises(InvalidSpecError, match="expected"):
        dataclasses.replace(RANGE_MUTANTS[0], **changes)


def test_a_case_that_the_suite_does_not_have_is_refused():
    unknown = dataclasses.replace(RANGE_MUTANTS[0], cases=("aten.conv9d/s8.pc/generic/3x3",))
    with pytest.raises(InvalidSpecError, match=r"aten\.conv9d"):
        judge_mutant(unknown)


def test_the_published_matrix_is_that_of_the_code():
    page = published(PAGE.read_text())
    expected = {mutant.name: Entry.of(mutant) for mutant in MUTANTS}
    assert {name: dataclasses.replace(entry, also=()) for name, entry in page.items()} == expected
    assert f"**{len(MUTANTS)} mutants, {len(MUTANTS)} killed.**" in PAGE.read_text()


def test_a_survivor_is_struck_out_on_the_page():
    survivor: Mutant = dataclasses.replace(RANGE_MUTANTS[0], make=healthy)
    page = render([judge_mutant(survivor, survivor.killers)])
    assert "**1 mutants, 0 killed.**" in page
    assert published(page)[survivor.name].killers == ("~~R2~~",)
