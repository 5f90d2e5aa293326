"""What every test shares: exporting a module, and running it through the engine."""

from __future__ import annotations

import os

import pytest
import torch

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e

# Tests run beside each other, one a core, and so do processes that they start: more threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collectstart(collector):
    """Seed what a file draws as it is imported: else it depends on the files before it."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def export():
    """Return a function from a module and its inputs to the module of its exported program."""

    def run(module, *inputs, **options):
        return torch.export.export(module.eval(), inputs, **options).module()

    return run


@pytest.fixture(scope="session")
def quantize():
    """Return a function from an exported model, a quantizer and inputs to the converted model."""

    def run(model, quantizer, *inputs):
        prepared = prepare_pt2e(model, quantizer)
        calibrate(prepared, [inputs])
        return convert_pt2e(prepared)

    return run


@pytest.fixture(scope="session")
def browser():
    """Return Chromium, for pages."""
    from in_browser import open_browser

    driver = open_browser()
    yield driver
    driver.quit()
