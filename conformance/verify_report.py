"""Checks a report again, offline: that it is one, that it says of itself what follows from it, and waives by name."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantizer_sdk.conformance.figures import broken_rules
from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.conformance.report import Report
from quantizer_sdk.conformance.report_file import read_json
from quantizer_sdk.conformance.schema import schema_findings
from quantizer_sdk.conformance.waivers import waived

__all__ = ["verify_report"]

_NEED_A_RUNNER = {"L3", "L4"}


def verify_report(path: str | Path) -> list[str]:
    """Return what is wrong with a report, empty if it is sound; that a case falls short is nothing wrong.

    A sound report fits the schema; its ids are legal, sorted and unique; its levels, its verdict and whether it passed
    are what follows from its cases; no case passes whose figures forbid it (see `figures`); every waived case tells
    why, by whom and until when; and kernels were judged only where there is a runner.

    Raises:
        MissingDependencyError: jsonschema is not installed.
        ReportError: There is no such file, or it is no JSON.
    """
    content = read_json(path)
    findings = schema_findings(content)
    if findings:
        return findings  # nothing else can be asked of it
    findings = _order_findings([entry["id"] for entry in content["outcomes"]])
    if findings:
        return findings
    report = Report.from_dict(content)
    findings = _derived_findings(content, report)
    if report.runner is None:
        findings += [
            f"$.runner: null, but {level.name} has cases; without a runner there are none"
            for level in report.levels()
            if level.name in _NEED_A_RUNNER
        ]
    for outcome in report.outcomes:
        findings += [f"{outcome.id}: {finding}" for finding in _case_findings(outcome)]
    return findings


def _order_findings(ids: list[str]) -> list[str]:
    repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
    if repeated:
        return [f"{id_}: occurs {ids.count(id_)} times; expected each case once" for id_ in repeated]
    misplaced = [(before, after) for before, after in itertools.pairwise(ids) if before > after]
    return [f"{after}: stands behind {before}; expected cases sorted by id" for before, after in misplaced]


def _derived_findings(content: Mapping[str, Any], report: Report) -> list[str]:
    derived = report.to_dict()
    return [
        f"$.{key}: {json.dumps(content[key])}; from the cases follows {json.dumps(derived[key])}"
        for key in ("levels", "passed", "verdict")
        if content[key] != derived[key]
    ]


def _case_findings(outcome: Outcome) -> list[str]:
    findings = [f"{outcome.status.value} with figures that break: {rule}" for rule in broken_rules(outcome)]
    if outcome.status is Status.WAIVED and waived(outcome.message) is None:
        findings.append("WAIVED, but its message does not tell the waiver's reason, owner, link and expiry")
    return findings
