"""Chromium for the tests of HTML pages: opened once a worker, and watched for complaints and requests."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
)
WIDE = 1280


def open_browser():
    """Start Chromium; the caller quits it."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.fail("this test drives Chromium: apt-get update && apt-get install -y chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(paths[1]))


@contextlib.contextmanager
def opened(browser, address):
    """Open a page anew; when the block is over, nothing may have been complained of or asked for."""
    resize(browser, WIDE)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert address in requests
    assert [url for url in requests if url.split("#")[0] != address and not url.startswith("data:")] == []


def resize(browser, width, height=900):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def find(page, selector):
    return page.find_elements(By.CSS_SELECTOR, selector)


def one(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)
