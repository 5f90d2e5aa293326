"""The published JSON Schema of a report, and what a report does not satisfy of it."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

from quantizer_sdk.errors import MissingDependencyError

__all__ = ["report_schema", "schema_findings"]

_MOST = 50
"""So many findings are told: a file of another kind would break the schema at every case."""

_LONGEST = 300


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of what `Report.to_dict` gives: report.schema.json of this package."""
    text = importlib.resources.files("quantizer_sdk.conformance").joinpath("report.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def schema_findings(content: Any) -> list[str]:
    """Return where content, as read from JSON, departs from the schema: place and reason, in order of place.

    Raises:
        MissingDependencyError: jsonschema is not installed.
    """
    try:
        from jsonschema import Draft202012Validator
    except ImportError as e:
        message = f'checking a report needs jsonschema, but {e}: pip install "quantizer-sdk[report]"'
        raise MissingDependencyError(message) from e

    errors = Draft202012Validator(report_schema()).iter_errors(content)
    places = sorted((error.json_path, error.message) for error in errors)
    findings = [f"{place}: {_shortened(message)}" for place, message in places[:_MOST]]
    return [*findings, f"and {len(places) - _MOST} more like these"] if len(places) > _MOST else findings


def _shortened(message: str) -> str:
    """Return the message, which quotes the value it is about, without that value's middle."""
    half = _LONGEST // 2
    return message if len(message) <= _LONGEST else f"{message[:half]} [...] {message[-half:]}"
