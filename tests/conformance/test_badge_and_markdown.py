"""The badge and the Markdown tell the level, and what stands against it."""

import re
import sys
import xml.etree.ElementTree as ET

import pytest
from markdown_it import MarkdownIt
from sample_reports import NOTE, sample_report

from quantizer_sdk import MissingDependencyError
from quantizer_sdk.conformance.badge import badge_text, to_badge
from quantizer_sdk.conformance.markdown import to_markdown
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status
from quantizer_sdk.conformance.report import LEVELS, Report

PASSING = [Status.PASS]
SVG = "{http://www.w3.org/2000/svg}"


def reaching(level):
    """Return a report that reaches this level and has no case above it."""
    return sample_report(60, statuses=PASSING, checks=[c for c, (name, _) in CHECKS.items() if name <= level])


def fill_of(report):
    return ET.fromstring(to_badge(report)).findall(f".//{SVG}rect")[-1].attrib["fill"]


@pytest.mark.parametrize("level", LEVELS)
def test_the_badge_shows_the_level(level):
    root = ET.fromstring(to_badge(reaching(level)))
    assert [text.text for text in root.iter(f"{SVG}text")] == ["quantconf", f"{level} xnnpack"]
    assert root.attrib["aria-label"] == f"quantconf: {level} xnnpack"


def test_each_level_has_a_color_on_which_white_can_be_read():
    colors = [fill_of(reaching(level)) for level in LEVELS] + [fill_of(sample_report(60, statuses=[Status.FAIL]))]
    assert len(set(colors)) == len(colors)
    for color in colors:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        assert 1.05 / (luminance + 0.05) >= 4.5, color


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "L5 xnnpack"),
        ({"selection": {"level": "L5"}}, "L5 xnnpack"),
        ({"selection": {"quick": "yes"}}, "L5 xnnpack (partial run)"),
        ({"complete": False}, "L5 xnnpack (partial run)"),
        ({"flaws": ("expired",), "selection": {"select": "x"}}, "L5 xnnpack (partial run, flaws)"),
        ({"backend": "a<b&c"}, "L5 a<b&c"),
    ],
)
def test_the_badge_tells_what_was_left_out(changes, text):
    report = sample_report(60, statuses=PASSING, **changes)
    assert badge_text(report) == text
    assert [t.text for t in ET.fromstring(to_badge(report)).iter(f"{SVG}text")][1] == text


def test_no_level_is_told_too():
    assert badge_text(sample_report(60, statuses=[Status.FAIL])) == "no level xnnpack"
    assert badge_text(sample_report(0)) == "no level xnnpack"


def rendered(report):
    return MarkdownIt("commonmark").enable("table").render(to_markdown(report))


def cells(html):
    rows = re.findall(r"<tr>\n(.*?)</tr>", html, re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]


def test_markdown_tells_verdict_levels_and_what_fell_short():
    report = sample_report(200)
    html = rendered(report)
    assert "<h1>quantconf-1/none[xnnpack, avx512_vnni]: not passed</h1>" in html
    rows = cells(html)
    for level in report.levels():
        counts = [str(level.counts.get(status, 0)) for status in Status]
        assert [level.name, "no", *counts] in rows
    short = [outcome for outcome in report.outcomes if outcome.status.falls_short]
    assert 0 < len(short) <= 100
    for outcome in short:
        message = " ".join(outcome.message.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert [f"<code>{outcome.id}</code>", outcome.status.value, message] in rows


def test_markdown_of_a_passing_report_lists_no_shortfall():
    text = to_markdown(sample_report(60, statuses=PASSING))
    assert text.startswith("# quantconf-1/L5\\[xnnpack, avx512\\_vnni\\]: passed\n")
    assert "fell short" not in text
    assert "Waivers" not in text
    assert "Flaws" not in text


def test_markdown_tells_waivers_and_flaws():
    report = sample_report(100, statuses=[Status.WAIVED, Status.PASS], flaws=("waiver *x* expired",))
    html = rendered(report)
    assert "<li>waiver *x* expired</li>" in html
    waived = [outcome.id for outcome in report.outcomes if outcome.status is Status.WAIVED]
    told = f"{len(waived)}, such as <code>{waived[0]}</code>"
    assert [told, NOTE["reason"], NOTE["owner"], NOTE["link"], "2030-01-31"] in cells(html)


def test_markdown_says_what_was_not_run():
    text = to_markdown(sample_report(0, complete=False, runner=None, selection={"level": "L2"}))
    assert "no runner: capped at L2" in text
    assert "**No case was run; a run without cases proves nothing.**" in text
    assert "**The run is not complete.**" in text
    assert "Only a selection was run: level = L2." in text


def test_a_long_list_is_cut():
    text = to_markdown(sample_report(300, statuses=[Status.FAIL]))
    assert text.count("| FAIL |") == 101  # with the heading of the levels' table
    assert "and 200 more in report.json" in text


def test_messages_cannot_break_a_table():
    message = "a|b\n\n# c `d` <script> \\| " + "e" * 1000
    outcome = Outcome(id="L0.C1/a", status=Status.FAIL, message=message)
    about = {"backend": "b", "runner": None, "profile": None, "environment": {}, "seed": 0, "selection": {}}
    html = rendered(Report(**about, outcomes=(outcome,)))
    (row,) = [row for row in cells(html) if row[0] == "<code>L0.C1/a</code>"]
    assert row[2].startswith("a|b # c `d` &lt;script&gt; \\| eee")
    assert len(row[2]) < 350
    assert "<script>" not in html


def test_without_jinja_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for make in (to_badge, to_markdown):
        with pytest.raises(MissingDependencyError, match=r'pip install "quantizer-sdk\[report\]"'):
            make(sample_report(10))
