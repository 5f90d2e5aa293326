"""The HTML report in a real browser: it tells the verdict, cells open their cases, search finds, nothing is loaded."""

from collections import Counter

import pytest
from in_browser import find, one, opened, resize
from sample_reports import sample_report
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from quantizer_sdk.conformance.html import to_html
from quantizer_sdk.conformance.outcome import Status, case_check, paragraph_of

REPORT = sample_report(400, flaws=("waiver L0.C1/x (owner ann) expired on 2020-01-01",))
NARROW = 390


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(REPORT), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    with opened(browser, address):
        yield browser


def listed(page):
    return [item.text for item in find(page, "#list summary .id")]


def of(subject, check=None):
    return [o for o in REPORT.outcomes if o.id.split("/")[1] == subject and check in {None, o.id.split("/")[0][3:]}]


def cell(page, subject, check):
    return one(page, f'.matrix td button[aria-label^="{check} on {subject}:"]')


def failing_case():
    return next(o for o in REPORT.outcomes if o.status is Status.FAIL and "half_distances" in o.numbers)


def test_the_verdict_stands_at_the_top(page):
    assert one(page, "h1").text == REPORT.verdict
    assert one(page, "#passed").text == "✗ not passed"
    assert REPORT.verdict in page.title
    assert [item.text.split()[0] for item in find(page, ".ladder li")] == ["L0", "L1", "L2", "L3", "L4", "L5"]
    assert one(page, ".flaws li").text == REPORT.flaws[0]


def test_what_was_not_run_is_told_in_whole_sentences(browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(to_html(sample_report(0, runner=None, complete=False, selection={"level": "L2"})), encoding="utf-8")
    browser.get(path.as_uri())
    assert one(browser, "header p").text == (
        "0 cases; a run without cases proves nothing. Without a runner the verdict is capped at L2. "
        "The run is not complete. Only a selection was run: level = L2."
    )
    assert one(browser, "#count").text == "0 of 0 cases"
    assert browser.get_log("browser") == []


def test_the_matrix_counts_every_case(page):
    buttons = find(page, ".matrix td button")
    counts = Counter()
    for button in buttons:
        for part in button.get_attribute("aria-label").split(": ")[1].split(", "):
            number, status = part.split()
            counts[status] += int(number)
    assert counts == Counter(outcome.status.value for outcome in REPORT.outcomes)
    assert len(buttons) == len({(o.id.split("/")[1], o.id.split("/")[0]) for o in REPORT.outcomes})


def test_cells_take_the_color_of_their_worst_status(page):
    case = failing_case()
    button = cell(page, case.id.split("/")[1], case.id.split("/")[0][3:])
    assert button.get_attribute("class") == "FAIL"
    assert button.value_of_css_property("background-color") == one(page, "#statuses .FAIL").value_of_css_property(
        "background-color"
    )


def test_a_cell_opens_its_cases_with_message_numbers_and_plots(page):
    case = failing_case()
    head, subject = case.id.split("/")[:2]
    check = head.split(".")[1]
    cell(page, subject, check).click()
    assert one(page, "#chosen").text == f"{check} on {subject}"
    assert set(listed(page)) == {outcome.id for outcome in of(subject, check)}
    assert one(page, "#count").text == f"{len(of(subject, check))} of 400 cases"
    assert cell(page, subject, check).get_attribute("aria-pressed") == "true"
    assert len(find(page, '.matrix [aria-pressed="true"]')) == 1
    assert len(find(page, "#chosen-plots svg")) == 2
    (details,) = [d for d in find(page, "#list details") if case.id in d.text]
    details.find_element(By.TAG_NAME, "summary").click()
    WebDriverWait(page, 5).until(lambda _: details.find_elements(By.CSS_SELECTOR, ".body table"))
    assert details.find_element(By.CSS_SELECTOR, ".message").text == case.message
    assert case.signature in details.text
    rows = [row.find_elements(By.XPATH, "./*") for row in details.find_elements(By.TAG_NAME, "tr")]
    shown = {name.text: value.text for name, value, _ in rows}
    assert set(shown) == {*case.numbers, "seconds"}
    for key, value in case.numbers.items():
        if isinstance(value, (int, float)):
            assert float(shown[key]) == value
    errors = sorted(case.numbers["error_histogram"].items(), key=lambda item: int(item[0]))
    assert shown["error_histogram"] == "; ".join(f"{error}: {count}" for error, count in errors)
    bins = case.numbers["half_distances"]
    for key in bins:
        assert f"{key}: {', '.join(str(number) for number in bins[key])}" in shown["half_distances"].replace(
            "0.000001", "1e-06"
        ).replace("0.00001", "1e-05").replace("edges: 0,", "edges: 0.0,")
    assert len(details.find_elements(By.CSS_SELECTOR, "figure svg")) == 2


def test_rows_and_columns_open_theirs(page):
    subject = "aten.mul.Tensor"
    one(page, f'tr[data-subject="{subject}"] th button').click()
    assert one(page, "#count").text == f"{len(of(subject))} of 400 cases"
    one(page, '.matrix [data-check="K3"]').click()
    assert one(page, "#chosen").text == "K3"
    assert set(listed(page)) == {o.id for o in REPORT.outcomes if ".K3/" in o.id}


def test_search_and_statuses_narrow_rows_and_cases(page):
    one(page, "#search").send_keys("sigmoid K3")
    expected = {o.id for o in REPORT.outcomes if "sigmoid" in o.id and "k3" in f"{o.id} {o.message}".lower()}
    assert set(listed(page)) == expected
    rows = [row.get_attribute("data-subject") for row in find(page, ".matrix tbody tr") if row.is_displayed()]
    assert rows == ["aten.sigmoid.default"]
    one(page, "#reset").click()
    assert one(page, "#count").text == "400 of 400 cases"
    for box in find(page, "#statuses input"):
        if box.get_attribute("value") != "MISTRUSTED":
            box.click()
    assert set(listed(page)) == {o.id for o in REPORT.outcomes if o.status is Status.MISTRUSTED}
    one(page, "#search").send_keys("no such case")
    assert listed(page) == []
    assert one(page, "#count").text == "0 of 400 cases"


def test_what_fell_short_is_listed_first_and_more_can_be_shown(page):
    states = [item.text.split()[1] for item in find(page, "#list summary .status")]
    assert len(states) == 100
    failing = sum(outcome.status is Status.FAIL for outcome in REPORT.outcomes)
    assert states[:failing] == ["FAIL"] * failing
    one(page, "#more").click()
    assert len(listed(page)) == 200


def test_a_link_leads_to_a_case(page, address):
    case = failing_case()
    page.get("about:blank")
    page.get(f"{address}#case={case.id.replace('/', '%2F')}")
    assert listed(page) == [case.id]
    WebDriverWait(page, 5).until(lambda _: find(page, "#list .message"))
    assert one(page, "#list .message").text == case.message
    assert paragraph_of(case_check(case.id)) in one(page, "#list .body").text


def test_it_is_told_what_was_run_where_and_what_the_checks_state(page):
    environment = one(page, "#environment").text
    for key, value in {**REPORT.environment, "seed": "17", "runner": "executorch"}.items():
        assert f"{key} {value}" in environment
    assert "K3 on constructed ties the kernel rounds as the profile says" in one(page, "#legend").text
    waivers = one(page, "#waivers").text
    assert "known rounding" in waivers
    assert "2030-01-31" in waivers
    assert one(page, "#waivers a").get_attribute("href") == "https://example.org/1"


def luminance(color):
    parts = [float(part) / 255 for part in color.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out_in_both_color_schemes(page, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    ground = luminance(one(page, "body").value_of_css_property("background-color"))
    assert ground > 0.8 if scheme == "light" else ground < 0.05
    for element in [one(page, "header"), *find(page, "#legend .status"), *find(page, ".ladder li")]:
        back = luminance(element.value_of_css_property("background-color"))
        ink = luminance(element.value_of_css_property("color"))
        assert (max(back, ink) + 0.05) / (min(back, ink) + 0.05) >= 4.5, element.text


def test_a_narrow_screen_scrolls_down_only(page):
    resize(page, NARROW)
    cell(page, "aten.add.Tensor", "C1").click()
    for summary in find(page, "#list summary"):
        summary.click()
    WebDriverWait(page, 5).until(lambda _: len(find(page, "#list .body")) == len(listed(page)))
    assert page.execute_script("return document.documentElement.scrollWidth") <= NARROW


def test_ids_of_elements_are_unique_and_controls_are_named(page):
    ids = [element.get_attribute("id") for element in find(page, "[id]")]
    assert len(ids) == len(set(ids))
    names = page.execute_script(
        "return [...document.querySelectorAll('button, input')].map(e => e.ariaLabel || e.textContent || "
        "(e.labels && e.labels[0] && e.labels[0].textContent) || '')"
    )
    assert all(name.strip() for name in names)
    assert all(image.get_attribute("aria-label") for image in find(page, "svg"))
