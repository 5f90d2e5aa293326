"""All forms of a report are written; what cannot be is told, and the rest is written all the same."""

import fnmatch
import json
import re
import sys
import time
from pathlib import Path

import pytest
from sample_reports import sample_report

from quantizer_sdk import MissingDependencyError, ReportError
from quantizer_sdk.conformance.html import to_html
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.report_file import read_report
from quantizer_sdk.conformance.write import require_report_packages, write_reports

NAMES = ["report.json", "junit.xml", "report.md", "badge.svg", "report.html"]
ROOT = Path(__file__).parents[2]


def test_every_form_is_written_to_a_new_folder(tmp_path):
    report = sample_report(60)
    paths = write_reports(report, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == NAMES
    assert all(path.stat().st_size > 500 for path in paths)
    assert read_report(paths[0]) == report


def test_the_same_report_gives_the_same_files(tmp_path):
    first, second = (write_reports(sample_report(120), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize(
    ("module", "missing"),
    [("jinja2", ["report.md", "badge.svg", "report.html"]), ("matplotlib", ["report.html"])],
)
def test_without_a_package_the_rest_is_written_and_the_extra_named(module, missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError) as caught:
        write_reports(sample_report(60), tmp_path)
    message = str(caught.value)
    assert f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing" in message
    assert module in message
    assert 'pip install "quantizer-sdk[report]"' in message
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(NAMES) - set(missing))
    with pytest.raises(MissingDependencyError, match=f"reports need {module}: pip install"):
        require_report_packages()


def test_with_all_packages_nothing_is_missing():
    require_report_packages()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match=r"cannot write .*report\.json: .*expected a folder for reports"):
        write_reports(sample_report(10), tmp_path / "file")


@pytest.mark.parametrize("report", [sample_report(0), sample_report(1), sample_report(3, runner=None, profile=None)])
def test_small_reports_make_a_page_too(report, tmp_path):
    assert len(write_reports(report, tmp_path)) == len(NAMES)


@pytest.mark.parametrize("statuses", [None, [Status.FAIL]], ids=["all statuses", "all failing"])
def test_four_thousand_cases_make_a_small_page_in_seconds(statuses):
    about = {} if statuses is None else {"statuses": statuses}
    report = sample_report(4000, subjects=[f"aten.op_{place}.default" for place in range(60)], **about)
    start = time.process_time()
    page = to_html(report)
    assert time.process_time() - start < 10  # measured: 3
    assert len(page.encode()) < 5_000_000


def test_what_comes_from_a_report_cannot_become_markup():
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    report = sample_report(
        30, backend=hostile, environment={hostile: hostile}, flaws=(hostile,), selection={"a": hostile}
    )
    outcomes = report.to_dict()["outcomes"]
    outcomes[0] |= {"status": "FAIL", "message": hostile, "signature": hostile, "numbers": {hostile: hostile}}
    page = to_html(report.from_dict({**report.to_dict(), "outcomes": outcomes}))
    assert page.count("<script") == 2
    assert "<img" not in page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["cases"][0][2:5] == [hostile, hostile, {hostile: hostile}]


def test_the_package_brings_its_templates_and_schema():
    text = (ROOT / "pyproject.toml").read_text()
    patterns = re.findall('"([^"]+)"', re.search(r'"quantizer_sdk\.conformance" = \[(.*?)\]', text)[1])
    folder = ROOT / "conformance"
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    data = [name for name in files if not name.endswith(".py") and "__pycache__" not in name]
    assert "report.schema.json" in data
    assert "templates/report.html.j2" in data
    assert [name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []
