"""The report of a model in a real browser: what it advises, that the graph is searched, sorted and opened."""

import pytest
import torch
from in_browser import find, one, opened
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait
from torch import nn

from quantizer_sdk import compare, explain
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer
from quantizer_sdk.errors import ReportError
from quantizer_sdk.model_report import write_report
from quantizer_sdk.model_report.compose import content_of


class Net(nn.Module):
    """One layer that nobody quantizes, and one whose outliers make it the noisiest."""

    def __init__(self):
        super().__init__()
        self.first, self.noisy, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
        with torch.no_grad():
            self.noisy.weight[0, 0] = 60.0

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = torch.cumsum(self.noisy(y), -1)
        return self.head(z.mean((2, 3)))


@pytest.fixture(scope="module")
def models(export, quantize):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    model = export(Net(), x)
    with pytest.warns(UserWarning, match="rules match no op"):
        quantized = quantize(model, XNNPACKQuantizer().set_module_name("heads", None).set_global(config()), x)
    return model, quantized, x


def config():
    from quantizer_sdk.backends.xnnpack import get_symmetric_quantization_config

    return get_symmetric_quantization_config(is_per_channel=False)


@pytest.fixture(scope="module")
def address(models, tmp_path_factory):
    model, quantized, x = models
    path = tmp_path_factory.mktemp("page") / "net.html"
    comparison = compare(model, quantized, [(x,)], histograms=True)
    facts = {"backend": "<xnnpack>"}
    write_report(path, model=quantized, explanation=explain(quantized), comparison=comparison, title="Net", facts=facts)
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    with opened(browser, address):
        yield browser


def shown(page):
    return [row.get_attribute("data-name") for row in find(page, "#rows tbody tr[data-name]") if row.is_displayed()]


def test_the_summary_tells_noise_and_coverage(page):
    cards = {card.text.split("\n")[0]: card.text.split("\n")[1] for card in find(page, ".card")}
    assert cards["SQNR of the output"].endswith("dB")
    assert cards["Ops left float"].startswith("1 of ")
    assert cards["Work on integers"] == "100.0 %"
    assert one(page, "h1").text == "Net"
    assert "<xnnpack>" in one(page, "#made").text


def test_advice_names_the_noisiest_layer_first(page, models):
    model, quantized, x = models
    worst = compare(model, quantized, [(x,)]).ranked()[0]
    advice = [item for item in find(page, ".advice li") if "of the noise" in item.text]
    assert advice[0].text.split(" dB ")[1].startswith(worst.module)
    assert one(advice[0], "a").text == worst.node
    assert "did you mean 'head'" in one(page, "#warnings").text


def test_a_link_of_advice_opens_its_row(page):
    link = next(item for item in find(page, ".advice li") if "cumsum" in item.text).find_element(By.CSS_SELECTOR, "a")
    link.click()  # the page hears of its new address a little later
    details = WebDriverWait(page, 10).until(lambda it: find(it, "#rows tr.details"))[0].text
    assert "what would change it" in details
    assert "torch.cumsum(self.noisy(y), -1)" in details


def test_search_and_states_narrow_the_rows(page):
    whole = shown(page)
    one(page, "#search").send_keys("self.noisy")
    assert shown(page) == ["conv2d_1", "cumsum"]
    assert one(page, "#count").text == f"2 of {len(whole)} rows"
    one(page, "#search").clear()
    one(page, "#search").send_keys(" ")
    one(page, '#states input[value="quantized"]').click()
    assert "cumsum" in shown(page)
    assert "conv2d" not in shown(page)


def test_rows_are_sorted_by_their_own_noise(page, models):
    model, quantized, x = models
    Select(one(page, "#order")).select_by_value("blame")
    ranked = [layer.node for layer in compare(model, quantized, [(x,)]).ranked() if layer.blame]
    assert shown(page)[: len(ranked)] == ranked


def test_lines_take_the_color_of_what_runs_in_them(page):
    kinds = {kind: find(page, f"#rows path.{kind}") for kind in ("codes", "inside", "float")}
    assert all(kinds[kind] for kind in ("codes", "inside"))
    colors = {kind: lines[0].value_of_css_property("stroke") for kind, lines in kinds.items() if lines}
    assert len(set(colors.values())) == len(colors)


def test_plots_are_in_the_page(page):
    images = find(page, "#pictures img")
    assert len(images) == 3
    assert all(image.get_property("naturalWidth") > 100 for image in images)


def test_without_a_comparison_there_is_no_noise(models, tmp_path):
    _model, quantized, _x = models
    content = content_of("net", quantized, explain(quantized))
    assert all(row.sqnr is None for row in content.rows)
    assert {row.name for row in content.rows} >= {"conv2d", "cumsum", "output"}
    write_report(tmp_path / "net.html", model=quantized, explanation=explain(quantized))
    assert "<title>net: quantization report</title>" in (tmp_path / "net.html").read_text()


def test_a_folder_that_is_missing_is_named(models, tmp_path):
    _model, quantized, _x = models
    with pytest.raises(ReportError, match="No such file"):
        write_report(tmp_path / "missing" / "net.html", model=quantized, explanation=explain(quantized))
