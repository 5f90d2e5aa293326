"""Mutants made of x86's tables and profiles: killed, or no mistake there for a reason that is written down."""

import pytest

from quantizer_sdk.conformance.mutants import MUTANTS
from quantizer_sdk.conformance.mutants.elsewhere import NO_MISTAKE, judge_elsewhere
from quantizer_sdk.conformance.mutants.healthy import Donor, donor

AT_LEAST = {"onednn": 156, "inductor": 134, "onnxruntime": 145}


@pytest.mark.parametrize("part", AT_LEAST)
def test_every_mistake_is_found(part):
    found = list(judge_elsewhere(MUTANTS, Donor("x86", part)))
    fates = {it.mutant.name: it.fate for it in found}
    assert [str(it.judgement) for it in found if it.fate == "survives"] == []
    harmless = {name for name, fate in fates.items() if fate == "no mistake"}
    assert harmless == set(NO_MISTAKE[part]) - {name for name, fate in fates.items() if fate == "no case"}
    assert sum(fate == "killed" for fate in fates.values()) >= AT_LEAST[part]
    assert donor() == Donor()
