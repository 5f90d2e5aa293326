"""All forms of a report, written to a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from quantizer_sdk.conformance.badge import to_badge
from quantizer_sdk.conformance.html import to_html
from quantizer_sdk.conformance.junit import to_junit
from quantizer_sdk.conformance.markdown import to_markdown
from quantizer_sdk.conformance.report import Report
from quantizer_sdk.errors import MissingDependencyError, ReportError

__all__ = ["require_report_packages", "write_reports"]

_FORMS: dict[str, tuple[Callable[[Report], str], tuple[str, ...]]] = {
    "report.json": (Report.to_json, ()),
    "junit.xml": (to_junit, ()),
    "report.md": (to_markdown, ("jinja2",)),
    "badge.svg": (to_badge, ("jinja2",)),
    "report.html": (to_html, ("jinja2", "matplotlib")),
}


def require_report_packages() -> None:
    """Check, before the run whose report is to be written, that it can be, in all its forms.

    Raises:
        MissingDependencyError: Packages that `write_reports` needs are not installed.
    """
    packages = sorted({package for _, needed in _FORMS.values() for package in needed})
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        message = f'reports need {" and ".join(missing)}: pip install "quantizer-sdk[report]"'
        raise MissingDependencyError(message)


def write_reports(report: Report, folder: str | Path) -> list[Path]:
    """Write report.json, junit.xml, report.md, badge.svg and report.html to a folder, which is made if need be.

    Returns:
        The files, in that order.

    Raises:
        MissingDependencyError: A package is not installed; the forms that do without it were written all the same.
        ReportError: The folder cannot be written to, or the numbers of a case cannot be drawn.
    """
    folder = Path(folder)
    written, left_out = [], {}
    for name, (make, _) in _FORMS.items():
        path = folder / name
        try:
            text = make(report)
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        except MissingDependencyError as e:
            left_out[name] = e
        except OSError as e:
            raise ReportError(f"cannot write {path}: {e.strerror}; expected a folder for reports") from e
        else:
            written.append(path)
    if left_out:
        reasons = sorted({str(e) for e in left_out.values()})
        message = f"in {folder}, {', '.join(left_out)} {'is' if len(left_out) == 1 else 'are'} missing"
        raise MissingDependencyError(f"{message}; {'; '.join(reasons)}")
    return written
