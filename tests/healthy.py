"""A run of the suite that must find nothing."""

from __future__ import annotations

from quantizer_sdk.conformance.run import Settings, run_suite
from quantizer_sdk.conformance.suite import Selection


def assert_nothing_falls_short(backend, level, *patterns, at_least):
    """Run the cases of these patterns on one worker, for another test has the second core; return the report."""
    selection = Selection(level=level, patterns=patterns)
    report = run_suite(Settings(backend=backend, selection=selection, workers=1))
    short = [f"{o.status.value} {o.id}: {o.message}" for o in report.outcomes if o.status.falls_short]
    assert not short, "\n".join(short)
    assert report.passed
    assert len(report.outcomes) >= at_least
    return report
