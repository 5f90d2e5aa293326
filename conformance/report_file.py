"""Reports read back from files, strictly: what Python's JSON reader lets pass, but JSON does not, is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from quantizer_sdk.conformance.report import Report
from quantizer_sdk.errors import InvalidSpecError, ReportError

__all__ = ["read_json", "read_report"]


def read_report(path: str | Path) -> Report:
    """Read a report that `Report.to_json` wrote; `verify_report` tells whether it is sound, too.

    Raises:
        ReportError: There is no such file, or it holds no report.
    """
    content = read_json(path)
    try:
        return Report.from_dict(content)
    except InvalidSpecError as e:
        raise ReportError(f"{path}: {e}; expected the report.json of a run of the suite") from e


def read_json(path: str | Path) -> Any:
    """Read a JSON file in which no key occurs twice and every number is finite.

    Raises:
        ReportError: There is no such file, or it is no such JSON.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_finite, parse_float=_finite)
    except OSError as e:
        raise ReportError(f"report {path}: {e.strerror}; expected a JSON file") from e
    except (ValueError, RecursionError) as e:  # JSONDecodeError, UnicodeDecodeError and the two below
        raise ReportError(f"report {path} is no JSON: {e}") from e


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ValueError(f"key {twice!r} occurs twice in one object")
    return content


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):  # NaN, Infinity, and what is beyond float64, such as 1e999
        raise ValueError(f"it holds {number}; expected finite numbers")
    return value
