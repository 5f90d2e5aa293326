"""JUnit XML says what the report says: the same cases, the same failures, and what else makes the run fail."""

import json
import xml.etree.ElementTree as ET
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from sample_reports import sample_report

from quantizer_sdk.conformance.junit import to_junit
from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.conformance.report import Report

KIND = {
    Status.PASS: None,
    Status.FAIL: "failure",
    Status.ERROR: "error",
    Status.UNKNOWN: "error",
    Status.MISTRUSTED: "error",
    Status.WAIVED: "skipped",
    Status.UNSUPPORTED: "skipped",
}
RESULTS = ("failure", "error", "skipped")


def read(report):
    return ET.fromstring(to_junit(report).encode())


def result(case):
    found = [child for child in case if child.tag in RESULTS]
    assert len(found) <= 1
    return found[0] if found else None


def test_every_case_stands_in_its_level_with_its_result():
    report = sample_report(300)
    root = read(report)
    assert root.tag == "testsuites"
    assert [suite.attrib["name"] for suite in root] == [level.name for level in report.levels()]
    cases = {case.attrib["name"]: (suite.attrib["name"], case) for suite in root for case in suite.iter("testcase")}
    assert list(cases) == [outcome.id for outcome in report.outcomes]
    for outcome in report.outcomes:
        level, case = cases[outcome.id]
        assert outcome.id.startswith(f"{level}.")
        assert case.attrib["classname"] == outcome.id.split("/")[0]
        assert float(case.attrib["time"]) == round(outcome.seconds, 4)
        found = result(case)
        assert (found.tag if found is not None else None) == KIND[outcome.status]
        if found is not None:
            assert found.text == f"{outcome.status.value}: {outcome.message}"
            assert found.attrib["message"] == outcome.message.split("\n")[0]
            assert found.attrib["type"] == (outcome.signature or outcome.status.value)
            printed = case.find("system-out")
            assert (json.loads(printed.text) if printed is not None else {}) == outcome.numbers


def test_totals_add_up():
    report = sample_report(300)
    root = read(report)
    expected = Counter(KIND[outcome.status] for outcome in report.outcomes)
    for element, plural in zip(RESULTS, ("failures", "errors", "skipped"), strict=True):
        assert int(root.attrib[plural]) == expected[element] > 0
        assert sum(int(suite.attrib[plural]) for suite in root) == expected[element]
        assert all(int(suite.attrib[plural]) == len(suite.findall(f"testcase/{element}")) for suite in root)
    assert int(root.attrib["tests"]) == 300


def test_it_is_green_only_if_the_report_passed():
    passing = {"statuses": [Status.PASS, Status.UNSUPPORTED, Status.WAIVED]}
    for report in (
        sample_report(60, **passing),
        sample_report(60),
        sample_report(0),
        sample_report(60, complete=False, **passing),
        sample_report(60, flaws=("waiver x expired on 2020-01-01", "waiver y matches no case"), **passing),
    ):
        root = read(report)
        assert (root.attrib["failures"] == root.attrib["errors"] == "0") == report.passed
        told = [failure.text for failure in root.findall("testsuite[@name='run']/testcase/failure")]
        assert told[: len(report.flaws)] == list(report.flaws)


def test_environment_and_seed_are_properties():
    (suite, *_) = read(sample_report(30))
    found = {item.attrib["name"]: item.attrib["value"] for item in suite.find("properties")}
    assert found == {
        "backend": "xnnpack",
        "seed": "17",
        "isa": "avx512_vnni",
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "flags": "avx2 avx512f <x>",
    }


def outcome(message, signature=""):
    return Outcome(id="L0.C1/a", status=Status.FAIL, message=message, signature=signature)


def report_of(*outcomes):
    about = {"backend": "b", "runner": None, "profile": None, "environment": {}, "seed": 0, "selection": {}}
    return Report(**about, outcomes=outcomes)


def test_what_xml_cannot_hold_is_written_out():
    root = read(report_of(outcome("\x1b[31mred\x00 \ud800 ]]> & \U0001f600")))
    assert root.find(".//failure").text == "FAIL: \\x1b[31mred\\x00 \\ud800 ]]> & \U0001f600"


@given(st.text(st.characters(), min_size=1), st.text(st.characters()))
def test_any_message_makes_xml(message, signature):
    failure = read(report_of(outcome(message, signature))).find(".//failure")
    assert failure.text.startswith("FAIL: ")
