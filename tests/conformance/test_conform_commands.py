"""`quantizer-sdk conform`, `conform-verify`, `conform-diff`: output, files and exit statuses."""

import json

import pytest
from typer.testing import CliRunner

from quantizer_sdk.commands import app

CASES = ("--select", "L0.C[12]/aten.relu/*/generic/*", "-j", "1")
GOOD, BAD = "tiny_backends:OnlyRelu", "tiny_backends:Unquantized"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of a healthy and of a wrong quantizer, with what was printed."""
    folder = tmp_path_factory.mktemp("reports")
    return {name: (run("conform", name, *CASES, "--out", folder / name), folder / name) for name in (GOOD, BAD)}


def test_a_pass_is_0_and_says_what_was_reached(reports):
    result, folder = reports[GOOD]
    assert result.exit_code == 0, result.output
    assert "quantconf-1/L0[tiny_backends:OnlyRelu" in result.stdout
    assert "no runner: the verdict is capped at L2" in result.stdout
    assert {path.name for path in folder.iterdir()} == {
        "report.json",
        "junit.xml",
        "report.md",
        "badge.svg",
        "report.html",
    }


def test_a_failure_is_1_and_names_the_case_and_the_node(reports):
    result, _ = reports[BAD]
    assert result.exit_code == 1
    assert "FAIL L0.C1/aten.relu/default/generic/4d" in result.stdout
    assert "computes in float" in result.stdout


def test_reports_are_consistent_until_somebody_changes_them(reports, tmp_path):
    _, folder = reports[BAD]
    assert run("conform-verify", folder / "report.json").exit_code == 0
    content = json.loads((folder / "report.json").read_text())
    content["passed"] = True
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(content))
    result = run("conform-verify", forged)
    assert result.exit_code == 1
    assert "passed" in result.stdout


def test_the_difference_of_two_reports_begins_with_regressions(reports):
    good, bad = (reports[name][1] / "report.json" for name in (GOOD, BAD))
    worse = run("conform-diff", good, bad)
    assert worse.exit_code == 1
    assert "L0.C1/aten.relu/default/generic/4d" in worse.stdout
    assert run("conform-diff", bad, good).exit_code == 0
    assert json.loads(run("conform-diff", good, bad, "--json").stdout)


def test_since_runs_only_what_fell_short(reports):
    _, folder = reports[BAD]
    listed = run("conform", BAD, "--since", folder / "report.json", "--list").stdout.split()
    short = [o["id"] for o in json.loads((folder / "report.json").read_text())["outcomes"] if o["status"] == "FAIL"]
    assert sorted(listed) == short


def test_a_waiver_that_fits_makes_it_pass_and_one_that_has_expired_does_not(reports, tmp_path):
    outcomes = json.loads((reports[BAD][1] / "report.json").read_text())["outcomes"]
    signatures = {o["signature"] for o in outcomes if o["status"] != "PASS"}
    assert signatures == {"float"}
    waivers = tmp_path / "waivers.toml"
    text = """[[waiver]]
id = "L0.C1/aten.relu/*"
reason = "the result is wanted in float"
link = "https://example.com/1"
owner = "somebody"
expires = {}
signature = "float"
"""
    waivers.write_text(text.format("2999-01-01"))
    assert run("conform", BAD, *CASES, "--waivers", waivers).exit_code == 0
    waivers.write_text(text.format("2001-01-01"))
    expired = run("conform", BAD, *CASES, "--waivers", waivers)
    assert expired.exit_code == 1
    assert "flaw:" in expired.stdout


def test_list_prints_ids_and_runs_nothing():
    listed = run("conform", GOOD, "--list", "--level", "L0").stdout.split()
    assert "L0.C1/aten.relu/default/generic/4d" in listed
    assert all(id_.startswith("L0.") for id_ in listed)


def test_no_case_is_a_failure():
    result = run("conform", GOOD, "--select", "nothing", "-j", "1")
    assert result.exit_code == 1
    assert "no case was run, which is a failure" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no_such_backend",), "no backend 'no_such_backend'"),
        ((GOOD, "--level", "L9"), "expected one of L0, L1"),
        ((GOOD, "--runner", "nobody"), "no backend 'nobody'"),
        ((GOOD, "--since", "missing.json"), "missing.json"),
        ((GOOD, "--waivers", "missing.toml", *CASES), "missing.toml"),
    ],
)
def test_misuse_is_2_and_one_line(arguments, message):
    result = run("conform", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
