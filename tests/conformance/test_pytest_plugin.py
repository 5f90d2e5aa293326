"""`pytest --pyargs quantizer_sdk.conformance --backend NAME`: the command line's cases and verdict, one test a case."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.run import Settings, run_suite
from quantizer_sdk.conformance.suite import Selection

TESTS = Path(__file__).parent.parent
SUITE = ("--pyargs", "quantizer_sdk.conformance")
PATTERNS = ("L0.C[145]/*/4d", "L2.*/generic/1d")
FAILS = ("--backend", "tiny_backends:Unquantized", "--select", "L0.C1/*/generic/[14]d", "--jobs", "1")
WAIVER = """[[waiver]]
id = "L0.C1/{subject}/default/generic/*"
reason = "this quantizer is made wrong"
link = "https://example.org/1"
owner = "tests"
expires = 2999-12-31
signature = "float"
"""


def run_pytest(folder, *arguments, code):
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def statuses(path):
    """Return what each test came to by its name, from JUnit XML."""
    found = {}
    for case in ET.parse(path).getroot().iter("testcase"):
        skipped = case.find("skipped")
        kind = "skip" if skipped is not None and skipped.get("type") == "pytest.skip" else "xfail"
        found[case.get("name")] = "fail" if case.find("failure") is not None else "pass" if skipped is None else kind
    return found


def test_cases_and_verdict_are_those_of_the_command_line(tmp_path):
    selects = [argument for pattern in PATTERNS for argument in ("--select", pattern)]
    backend = ("--backend", "tiny_backends:TINY", "--level", "L2", "--seed", "3", "--jobs", "1")
    printed = run_pytest(tmp_path, *SUITE, *backend, *selects, "--junitxml", "junit.xml", code=0)
    selection = Selection(level="L2", patterns=PATTERNS)
    report = run_suite(Settings(backend="tiny_backends:TINY", selection=selection, seed=3, workers=1))
    mapped = {Status.PASS: "pass", Status.UNSUPPORTED: "skip"}
    assert statuses(tmp_path / "junit.xml") == {outcome.id: mapped[outcome.status] for outcome in report.outcomes}
    assert {outcome.status for outcome in report.outcomes} == set(mapped)
    assert f"{report.verdict}: passed" in printed
    assert "no runner: the verdict is capped at L2" in printed


def test_a_case_that_falls_short_fails_and_cites_the_specification(tmp_path):
    printed = run_pytest(tmp_path, *SUITE, *FAILS, code=1)
    assert "L0.C1/aten.relu/default/generic/4d" in printed
    assert "relu (aten.relu.default) computes in float: no quantize takes its result" in printed
    assert "docs/conformance/checks.md#c1" in printed
    assert "2 failed" in printed
    assert re.search(r"quantconf-1/none\[tiny_backends:Unquantized.*\]: FAILED", printed)


def test_a_waived_case_is_an_expected_failure_and_a_waiver_without_a_case_fails_the_run(tmp_path):
    (tmp_path / "waivers.toml").write_text(WAIVER.format(subject="aten.relu") + WAIVER.format(subject="aten.tan"))
    printed = run_pytest(tmp_path, *SUITE, *FAILS, "--waivers", "waivers.toml", "-rx", code=1)
    assert "2 xfailed" in printed
    assert " failed" not in printed
    assert "this quantizer is made wrong" in printed
    assert "flaw: waiver L0.C1/aten.tan/default/generic/* (owner tests) matches no case" in printed


def test_a_single_case_by_its_node_id_is_no_verdict(tmp_path):
    case = "quantizer_sdk.conformance.pytest_plugin::L0.C2/aten.relu/default/generic/4d"
    printed = run_pytest(tmp_path, "--pyargs", case, "--backend", "tiny_backends:OnlyRelu", "--jobs", "1", code=0)
    assert "1 passed" in printed
    assert re.search(r"no verdict: 1 of \d+ cases were run", printed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name one: --backend NAME"),
        (("--backend", "acme_npu"), "no backend 'acme_npu'; installed: "),
        (("--backend", "tiny_backends:OnlyRelu", "--select", "L9*"), "no case is selected"),
    ],
)
def test_misuse_is_a_usage_error(arguments, words, tmp_path):
    assert words in run_pytest(tmp_path, *SUITE, *arguments, code=pytest.ExitCode.USAGE_ERROR)


def test_workers_of_pytests_own_are_refused(tmp_path):
    pytest.importorskip("xdist")
    printed = run_pytest(tmp_path, *SUITE, *FAILS, "-n", "1", code=pytest.ExitCode.USAGE_ERROR)
    assert "--jobs N in the place of -n N" in printed


def test_other_runs_of_pytest_neither_know_the_options_nor_import_torch(tmp_path):
    (tmp_path / "test_light.py").write_text(
        "import sys\n\ndef test_light():\n    assert 'pytest_quantizer_sdk' in sys.modules\n"
        "    assert not {'torch', 'quantizer_sdk'} & set(sys.modules)\n"
    )
    assert "1 passed" in run_pytest(tmp_path, code=0)
    printed = run_pytest(tmp_path, "--backend", "xnnpack", code=pytest.ExitCode.USAGE_ERROR)
    assert "unrecognized arguments: --backend" in printed
