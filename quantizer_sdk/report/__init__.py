"""Explain a model: what each op became, by which row and rule, over which ranges, and why the others stayed float."""

from quantizer_sdk.report.coverage import IGNORE, Coverage, CoverageWarning, as_coverage, check_coverage
from quantizer_sdk.report.explain import explain, freeze_report, take_report_along
from quantizer_sdk.report.explanation import Explanation
from quantizer_sdk.report.ops import is_op
from quantizer_sdk.report.records import STATES, Finding, OpRecord, TensorRecord

__all__ = [
    "IGNORE",
    "STATES",
    "Coverage",
    "CoverageWarning",
    "Explanation",
    "Finding",
    "OpRecord",
    "TensorRecord",
    "as_coverage",
    "check_coverage",
    "explain",
    "freeze_report",
    "is_op",
    "take_report_along",
]
