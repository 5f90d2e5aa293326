"""Defects that were public once, each rebuilt: the checks that their table names see it, and nothing without it."""

import re
import shutil
from pathlib import Path

import public_contract_cases
import public_engine_cases
import public_kernel_cases
import pytest
from public_case import narrow, outcome_of, unexecuted

from quantizer_sdk.conformance.outcome import Status

CASES = (*public_contract_cases.CASES, *public_engine_cases.CASES, *public_kernel_cases.CASES)
DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance" / "public-cases.md"
ROW = re.compile(
    r"\| (\w+) \[(\d+)\]\(https://github\.com/\w+/(\w+)/(?:issues|pull)/(\d+)\) \| [^|]+ \| ([A-Z0-9, ]+) \| [^|]+ \|"
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_named_check_sees_the_defect(case):
    if case.needs is not None and shutil.which(case.needs) is None:
        pytest.fail(f"{case.needs} is not installed: apt-get install {case.needs}")
    found = case.defective()
    assert (found.status, found.signature) == (case.status, case.signature), found.message
    found = case.healthy()
    assert found.status is Status.PASS, found.message


def test_the_document_lists_these_cases_and_no_others():
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")][2:]
    documented = {}
    for line in lines:
        row = ROW.fullmatch(line)
        assert row is not None, line
        repository, number, *linked, checks = row.groups()
        assert [repository, number] == linked
        documented[f"{repository}-{number}"] = checks.split(", ")
    assert len(documented) == len(lines)
    tested = {case.number: sorted({other.check for other in CASES if other.number == case.number}) for case in CASES}
    assert documented == tested


class OutermostModule(narrow("linear")):
    """Annotates what stands in the model's own forward, and nothing of its submodules."""

    def annotate(self, model):
        self.set_filter_function(lambda node: len(node.meta["nn_module_stack"]) == 1)
        return super().annotate(model)


def test_nothing_quantized_in_another_export_is_a_failure():
    found = outcome_of(unexecuted(OutermostModule), "L1.E2/aten.linear/s8.pc/no_grad/2d")
    assert (found.status, found.signature) == (Status.FAIL, "structure")
    assert "nothing is quantized" in found.message
