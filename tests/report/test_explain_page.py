"""The page of an explanation in a real browser: all ops are there, search and sorting find them, nothing is loaded."""

import itertools
import sys

import pytest
import torch
from in_browser import find, opened, resize
from quantizers import CONFIG, SmallTable
from selenium.webdriver.common.by import By
from torch import nn

from quantizer_sdk import MissingDependencyError, UnusedRuleWarning, calibrate, convert_pt2e, explain, prepare_pt2e

X = torch.randn(1, 3, 12, 12)


@pytest.fixture(scope="module")
def explanation(export):
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 2), nn.Conv2d(8, 8, 3), nn.ELU())
    quantizer = SmallTable().set_global(CONFIG).set_module_name("<b>33", None)
    with pytest.warns(UnusedRuleWarning):
        prepared = prepare_pt2e(export(nn.Sequential(*layers), X), quantizer)
    calibrate(prepared, [X])
    return explain(convert_pt2e(prepared))


@pytest.fixture(scope="module")
def address(tmp_path_factory, explanation):
    path = tmp_path_factory.mktemp("page") / "explain.html"
    path.write_text(explanation.to_html("A <model>"), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    with opened(browser, address):
        yield browser


def nodes(page):
    """Return the ops that are shown, from top to bottom."""
    return [row.find_element(By.TAG_NAME, "b").text for row in find(page, "#table tbody tr") if row.is_displayed()]


def search(page, words):
    box = find(page, "#search")[0]
    box.clear()
    box.send_keys(words)


def sort(page, name):
    next(button for button in find(page, "#table thead button") if button.text.startswith(name)).click()


def test_every_op_is_there_with_its_state_reason_and_ranges(page, explanation):
    assert nodes(page) == [op.node for op in explanation.ops]
    assert find(page, "h1")[0].text == "A <model>"
    assert find(page, "#count")[0].text == "5 of 5 ops"
    text = find(page, "#table")[0].text
    assert "conv: kernel size 2; the NPU takes odd ones" in text
    assert "no row for aten.elu.default" in text
    assert "module name '<b>33'" in find(page, "#warnings")[0].text
    assert len(find(page, "#table details")) == sum(bool(op.tensors) for op in explanation.ops)


def test_search_finds_by_any_word(page):
    search(page, "odd ones")
    assert nodes(page) == ["conv2d_1"]
    assert find(page, "#count")[0].text == "1 of 5 ops"
    search(page, "conv2d float")
    assert nodes(page) == ["conv2d_1"]
    search(page, "nowhere")
    assert nodes(page) == []


def test_states_can_be_left_out(page):
    find(page, "#states input[value=quantized]")[0].click()
    assert nodes(page) == ["conv2d_1", "elu"]
    find(page, "#states input[value=float]")[0].click()
    assert nodes(page) == []


def test_columns_sort_numbers_downwards_first_and_what_has_none_last(page, explanation):
    sort(page, "MACs")
    macs = {op.node: op.macs or 0 for op in explanation.ops}
    assert [macs[node] for node in nodes(page)] == sorted(macs.values(), reverse=True)
    sort(page, "MACs")
    assert [macs[node] for node in nodes(page)] == sorted(macs.values())
    sort(page, "Step")
    assert set(nodes(page)[-2:]) == {"conv2d_1", "elu"}  # float ops have no codes
    sort(page, "State")
    states = {op.node: op.state for op in explanation.ops}
    assert [states[node] for node in nodes(page)] == sorted(states.values())
    sort(page, "Op")
    assert nodes(page) == [op.node for op in explanation.ops]


def test_states_have_colours_that_can_be_read_in_light_and_dark(page):
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        back = luminance(find(page, "body")[0].value_of_css_property("background-color"))
        assert (back > 0.5) == (scheme == "light")
        colours = {item.value_of_css_property("color") for item in find(page, "#legend .state")}
        assert len(colours) == 5
        for text in map(luminance, colours):
            assert (max(back, text) + 0.05) / (min(back, text) + 0.05) >= 4.5  # WCAG 2.2, 1.4.3
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def luminance(colour):
    """Return the relative luminance of "rgba(r, g, b, a)", WCAG 2.2."""
    parts = [int(part) / 255 for part in itertools.islice(colour[colour.index("(") + 1 : -1].split(","), 3)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_fits_a_narrow_window(browser, page):
    resize(browser, 390)
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_without_jinja_it_names_the_extra(explanation, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"quantizer-sdk\[report\]"):
        explanation.to_html()
