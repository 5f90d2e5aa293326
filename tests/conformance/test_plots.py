"""Plots show what the figures say: bars as high as counts, δ where it lies, sums over cases."""

import itertools
import math
import re
import sys
import xml.etree.ElementTree as ET

import pytest
from sample_reports import EDGES, sample_report

from quantizer_sdk import MissingDependencyError, ReportError
from quantizer_sdk.conformance.distribution import Distribution, distribution_of
from quantizer_sdk.conformance.outcome import Outcome, Status
from quantizer_sdk.conformance.plots import Plotter

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def plotter():
    return Plotter()


def distribution(**changes):
    fields = {"errors": {}, "edges": (), "counts": (), "mismatches": (), "delta": None, "cases": 1}
    return Distribution(**{**fields, "otherwise_binned": 0, **changes})


def outline(svg, color):
    """Return the heights of the bars that a filled path draws, from left to right, in units of the SVG."""
    (path,) = [p for p in ET.fromstring(svg).iter(f"{SVG}path") if f"fill: var({color})" in p.attrib["style"]]
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"])]
    bottom = points[0][1]
    return [bottom - y for (x, y), (right, again) in itertools.pairwise(points) if right > x and y == again]


def labels(svg):
    return [
        (float(t.attrib["x"]), t.text) for t in ET.fromstring(svg).iter(f"{SVG}text") if "middle" in t.attrib["style"]
    ]


def heights(*counts):
    return [math.log10(1 + count) for count in counts]


def assert_proportional(drawn, expected):
    scale = max(drawn) / max(expected)
    assert drawn == pytest.approx([scale * height for height in expected], abs=0.15)


def embed(svg):
    """Return the SVG as XML: inside of a page it needs no namespace."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def test_bars_are_as_high_as_the_logarithm_of_counts(plotter):
    svg = embed(plotter.errors(distribution(errors={-1: 30, 0: 5000, 1: 7})))
    assert_proportional(outline(svg, "--plot-all"), heights(30, 5000, 7))
    assert [text for _, text in labels(svg)] == ["-1", "0", "+1"]
    differing = outline(svg, "--plot-differing")
    assert differing[1] == 0
    assert differing[0] == outline(svg, "--plot-all")[0] > 0


def test_errors_on_one_side_leave_0_in_the_middle(plotter):
    svg = embed(plotter.errors(distribution(errors={0: 10, 3: 10})))
    assert_proportional(outline(svg, "--plot-all"), heights(0, 0, 0, 10, 0, 0, 10))
    assert [text for _, text in labels(svg)] == ["-3", "-1", "0", "+1", "+3"]


def test_only_right_codes(plotter):
    svg = embed(plotter.errors(distribution(errors={0: 10})))
    assert_proportional(outline(svg, "--plot-all"), heights(0, 10, 0))


def test_far_errors_are_binned_and_none_is_lost(plotter):
    errors = {-255: 9, -1: 99, 0: 999, 4: 99, 255: 9}
    svg = embed(plotter.errors(distribution(errors=errors)))
    bars = outline(svg, "--plot-all")
    assert len(bars) <= 121
    assert len(bars) % 2 == 1
    assert [bar for bar in bars if bar] == pytest.approx([bars[0], bars[len(bars) // 2], bars[-1]])
    assert_proportional([bars[0], bars[len(bars) // 2], bars[-1]], heights(9, 999 + 99 + 99, 9))
    differing = outline(svg, "--plot-differing")
    assert_proportional([differing[0], differing[len(bars) // 2], differing[-1]], heights(9, 99 + 99, 9))


def test_half_distances_and_the_line_at_delta(plotter):
    found = distribution(edges=(0, 0.1, 0.3, 0.5), counts=(5, 50, 500), mismatches=(5, 3, 0), delta=0.2)
    svg = embed(plotter.half_distances(found))
    assert_proportional(outline(svg, "--plot-all"), heights(5, 50, 500))
    assert outline(svg, "--plot-differing")[0] == outline(svg, "--plot-all")[0]
    places = {text: x for x, text in labels(svg)}
    assert list(places) == ["0", "0.1", "0.3", "0.5"]
    (line,) = [p for p in ET.fromstring(svg).iter(f"{SVG}path") if "dash" in p.attrib["style"]]
    x = float(line.attrib["d"].split()[1])
    assert x == pytest.approx((places["0.1"] + places["0.3"]) / 2, abs=0.2)


def test_the_line_at_delta_does_not_stay_for_the_next_plot(plotter):
    with_line = distribution(edges=(0, 0.5), counts=(5,), mismatches=(0,), delta=0.2)
    without = distribution(edges=(0, 0.5), counts=(5,), mismatches=(0,))
    assert "dash" in plotter.half_distances(with_line)
    assert "dash" not in plotter.half_distances(without)
    assert "dash" not in plotter.errors(distribution(errors={0: 1}))


def test_delta_outside_of_all_bins_stands_at_their_end(plotter):
    svg = embed(plotter.half_distances(distribution(edges=(0, 0.5), counts=(5,), mismatches=(0,), delta=3.0)))
    (line,) = [p for p in ET.fromstring(svg).iter(f"{SVG}path") if "dash" in p.attrib["style"]]
    assert float(line.attrib["d"].split()[1]) == pytest.approx(labels(svg)[-1][0], abs=0.2)


def test_plots_stand_in_a_page_without_clashing(plotter):
    svgs = [
        plotter.errors(distribution(errors={0: 9, 1: 2})),
        plotter.half_distances(distribution_of(sample_report().outcomes)),
    ]
    for svg in svgs:
        assert svg.startswith("<svg viewBox=")
        assert " id=" not in svg
        assert "url(" not in svg
        assert "href" not in svg
        assert "font-family" not in svg
        assert not re.search("#[0-9a-f]{6}", svg)
        assert ET.fromstring(embed(svg)).attrib["role"] == "img"
        assert len(svg) < 4000


def test_drawing_is_repeatable(plotter):
    found = distribution_of(sample_report().outcomes)
    assert plotter.errors(found) == Plotter().errors(found) == plotter.errors(found)


def case(name, **numbers):
    return Outcome(id=f"L3.K2/{name}", status=Status.PASS, numbers=numbers)


def bins(edges, counts, mismatches):
    return {"edges": list(edges), "counts": list(counts), "mismatches": list(mismatches)}


def test_histograms_are_added_up():
    found = distribution_of(
        [
            case(
                "a",
                error_histogram={"-1": 3, "0": 10},
                half_distances=bins((0, 0.1, 0.5), (1, 9), (1, 0)),
                delta_max=1e-6,
            ),
            case(
                "b",
                error_histogram={"0": 5, "2": 1},
                half_distances=bins((0, 0.1, 0.5), (2, 4), (0, 0)),
                delta_max=1e-5,
            ),
            case("c", half_distances=bins((0, 0.5), (7,), (7,))),
            case("d", elements=4),
        ]
    )
    assert found == Distribution(
        errors={-1: 3, 0: 15, 2: 1},
        edges=(0, 0.1, 0.5),
        counts=(3, 13),
        mismatches=(1, 0),
        delta=1e-5,
        cases=3,
        otherwise_binned=1,
    )


def test_the_sum_over_a_report_is_that_of_its_cases():
    outcomes = sample_report(300).outcomes
    found = distribution_of(outcomes)
    with_them = [outcome.numbers for outcome in outcomes if "error_histogram" in outcome.numbers]
    assert found.cases == len(with_them) > 20
    assert found.edges == EDGES
    assert sum(found.errors.values()) == sum(numbers["elements"] for numbers in with_them)
    assert sum(found.mismatches) == sum(sum(numbers["half_distances"]["mismatches"]) for numbers in with_them)


def test_no_histograms_no_distribution():
    assert distribution_of([]) is None
    assert distribution_of([case("a", elements=3, delta_max=0.1)]) is None


@pytest.mark.parametrize(
    "numbers",
    [
        {"error_histogram": [1, 2]},
        {"error_histogram": {"one": 2}},
        {"error_histogram": {"1": "two"}},
        {"half_distances": {"edges": [0, 0.5]}},
        {"half_distances": bins((0, 0.5), (1, 2), (0,))},
        {"half_distances": bins((), (), ())},
        {"half_distances": 3},
        {"error_histogram": {"0": 1}, "delta_max": "small"},
    ],
)
def test_numbers_that_are_no_histograms_are_told_with_their_case(numbers):
    with pytest.raises(ReportError, match=r"case L3\.K2/a: numbers that are no histograms"):
        distribution_of([case("a", **numbers)])


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "quantizer-sdk\[report\]"'):
        Plotter()
