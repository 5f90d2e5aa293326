"""The specification in docs/conformance/ and the suite say the same of checks, statuses, options and profiles."""

import dataclasses
import io
import re
from pathlib import Path

import pytest
import typer
from rich.console import Console
from sample_reports import sample_report

from quantizer_sdk import Profile, find_backend
from quantizer_sdk.commands import app
from quantizer_sdk.conformance import dynamic_inputs, regimes
from quantizer_sdk.conformance.outcome import CHECKS, Status, case_check, paragraph_of
from quantizer_sdk.conformance.report import LEVELS, SUITE
from quantizer_sdk.conformance.terminal import render
from quantizer_sdk.profile import (
    Arithmetic,
    BiasForm,
    DynamicArithmetic,
    Family,
    Multiplier,
    Rounding,
    RunTimeScale,
    ScaleOrder,
    ZeroPointOrder,
)

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "conformance"
TEXTS = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.md"))}
PARAGRAPHS = {text.split()[0]: text for text in re.split(r"^## ", TEXTS["checks.md"], flags=re.MULTILINE)[1:]}
ROWS = dict(re.findall(r"^\| ([A-Z_, ]+) \| (.*) \|$", TEXTS["profiles.md"].split("## The profiles")[1], re.MULTILINE))


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def test_every_check_has_its_paragraph_and_every_paragraph_its_check():
    assert tuple(PARAGRAPHS) == tuple(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
def test_a_paragraph_states_what_the_check_states_and_says_how(check):
    level, statement = CHECKS[check]
    paragraph = PARAGRAPHS.get(check, "")
    assert f"\n*{level}: {statement}.*\n" in paragraph
    for part in ("**Looks at**", "**Measured**", "**Bound**", "**Catches**", "**Statuses**"):
        assert paragraph.count(f"- {part}") == 1, part


@pytest.mark.parametrize("check", CHECKS)
def test_failures_cite_the_paragraph(check):
    path, anchor = paragraph_of(check).split("#")
    assert f'<a id="{anchor}"></a>\n## {check} ' in (ROOT / path).read_text()


def test_the_terminal_cites_it_too():
    console = Console(file=io.StringIO(), width=120)
    report = sample_report()
    console.print(render(report))
    short = [outcome for outcome in report.outcomes if outcome.status.falls_short]
    printed = console.file.getvalue()
    assert f"specified in {paragraph_of(case_check(short[0].id))}\n" in printed


def signatures():
    files = [*(ROOT / "conformance").glob("checks_*.py"), *(ROOT / "conformance" / f"{n}.py" for n in MORE)]
    pattern = r'\b(?:failed|short)\(\s*(?:Status\.[A-Z]+,\s*)?"([^"]+)"'
    return sorted({name for path in files for name in re.findall(pattern, path.read_text())})


MORE = ("evaluate", "exports", "malformed", "workers")


def test_every_signature_that_a_waiver_may_expect_is_told():
    told = TEXTS["checks.md"] + TEXTS["index.md"]
    assert len(signatures()) > 20
    assert [name for name in signatures() if f"`{name}`" not in told] == []


def test_statuses_levels_and_kinds_of_data_are_told():
    index = TEXTS["index.md"]
    assert index.startswith(f"# {SUITE}:")
    assert [status.value for status in Status if f"\n| {status.value} |" not in index] == []
    assert [level for level in LEVELS if f"\n| {level} " not in index] == []
    texts = regimes.__doc__ + dynamic_inputs.__doc__
    kinds = [name for line in re.findall(r"^- ([\w, ]+):", texts, re.MULTILINE) for name in line.split(", ")]
    assert {"generic", "rows_ties"} <= set(kinds)
    assert [kind for kind in kinds if f"`{kind}`" not in index and kind not in INTERNAL] == []


INTERNAL = {"min_max"}  # what M1 compares with, no data of a case


def test_every_option_of_the_command_line_is_told():
    command = typer.main.get_command(app).commands["conform"]
    options = {max(parameter.opts, key=len) for parameter in command.params if parameter.opts[0].startswith("-")}
    assert len(options) > 10
    assert [option for option in sorted(options) if option not in TEXTS["index.md"]] == []


def test_every_field_of_a_profile_is_told():
    text = TEXTS["profiles.md"]
    fields = {field.name for kind in (Profile, Arithmetic, DynamicArithmetic) for field in dataclasses.fields(kind)} - {
        "name"
    }
    assert [name for name in sorted(fields) if f"`{name}" not in text] == []
    members = [
        m.name for kind in (Multiplier, Rounding, ZeroPointOrder, BiasForm, RunTimeScale, ScaleOrder) for m in kind
    ]
    members += [family.name for family in Family if family not in {Family.CONSTANT, Family.MIXED}]
    assert [name for name in members if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize(
    ("scheme", "column"), [("s8.pc", 0), ("u8.pc@onnxruntime", 1), ("u8.pc@onednn", 2), ("u8.pc@inductor", 3)]
)
def test_the_table_of_profiles_is_what_the_backends_say(scheme, column):
    backend = find_backend("x86" if "@" in scheme else "xnnpack")
    for family, arithmetic in backend.part_of(scheme).profile.arithmetic.items():
        row = next(cells for families, cells in ROWS.items() if family.name in families.split(", "))
        words = row.replace("*", "").split(" | ")[column].split(", ")
        order = arithmetic.zero_point.value.split("_")[0]
        assert words == [arithmetic.multiplier.name, arithmetic.rounding.value.replace("_", " "), order], family


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", TEXTS[name]):
        path, _, anchor = target.partition("#")
        file = (FOLDER / path).resolve() if path else FOLDER / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target
