"""A report as JUnit XML, which CI servers read."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

from quantizer_sdk.conformance.outcome import Outcome, Status, case_check, case_level
from quantizer_sdk.conformance.report import Report

__all__ = ["to_junit"]

_KINDS = {
    Status.FAIL: "failure",
    Status.ERROR: "error",
    Status.UNKNOWN: "error",
    Status.MISTRUSTED: "error",
    Status.WAIVED: "skipped",
    Status.UNSUPPORTED: "skipped",
}
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: Report) -> str:
    """Return JUnit XML: one test suite a level, one test case a case.

    FAIL is a failure, ERROR, UNKNOWN and MISTRUSTED are errors, WAIVED and UNSUPPORTED are skipped with their message.
    What else makes a run fail (flaws in waivers, cases not run, no case at all) fails in a suite named "run", so that
    a server which reads only this file sees what the report says.
    """
    suites = [
        (level.name, [_case(o) for o in report.outcomes if case_level(o.id) == level.name]) for level in report.levels()
    ]
    broken = [*report.flaws]
    broken += [] if report.complete else ["the run was not complete; run it again, or resume it"]
    broken += [] if report.outcomes else ["no case was run; a run without cases proves nothing"]
    if broken:
        suites.append(("run", [_broken(number, text) for number, text in enumerate(broken, start=1)]))
    totals = _totals([case for _, cases in suites for case in cases])
    root = ET.Element("testsuites", {"name": _clean(report.verdict), **totals})
    properties = {"backend": report.backend, "seed": str(report.seed), **report.environment}
    for name, cases in suites:
        suite = ET.SubElement(root, "testsuite", {"name": name, **_totals(cases)})
        listed = ET.SubElement(suite, "properties")
        for key, value in properties.items():
            ET.SubElement(listed, "property", name=_clean(key), value=_clean(value))
        suite.extend(cases)
    ET.indent(root, space=" ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _case(outcome: Outcome) -> ET.Element:
    place = f"{case_level(outcome.id)}.{case_check(outcome.id)}"
    case = ET.Element("testcase", classname=place, name=outcome.id, time=f"{outcome.seconds:.4f}")
    kind = _KINDS.get(outcome.status)
    if kind is not None:
        message = outcome.message or outcome.status.value
        attributes = {
            "message": _clean(message.splitlines()[0]),
            "type": _clean(outcome.signature or outcome.status.value),
        }
        ET.SubElement(case, kind, attributes).text = _clean(f"{outcome.status.value}: {message}")
        if outcome.numbers:
            ET.SubElement(case, "system-out").text = _clean(json.dumps(dict(outcome.numbers), sort_keys=True))
    return case


def _broken(number: int, text: str) -> ET.Element:
    case = ET.Element("testcase", classname="run", name=f"flaw {number}", time="0")
    ET.SubElement(case, "failure", message=_clean(text), type="flaw").text = _clean(text)
    return case


def _totals(cases: list[ET.Element]) -> dict[str, str]:
    counts = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error", "skipped")}
    seconds = sum(float(case.attrib["time"]) for case in cases)
    return {
        "tests": str(len(cases)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skipped"]),
        "time": f"{seconds:.3f}",
    }


def _clean(text: str) -> str:
    r"""Return text with what XML cannot hold, such as the escapes of a terminal, written as \x1b."""
    return _NO_XML.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
