"""Gives `pytest --pyargs quantizer_sdk.conformance --backend NAME` its options and tests.

pytest imports this module in every run where quantizer_sdk is installed. It therefore imports nothing but pytest, for
torch takes seconds, and adds nothing to runs that do not ask for the suite by name.
"""

from __future__ import annotations

import pytest

__all__ = ["pytest_load_initial_conftests"]

_SUITE = "quantizer_sdk.conformance"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Load the suite's plugin, with its options, where the command line names the suite."""
    known = early_config.known_args_namespace
    if known.pyargs and any(
        name == _SUITE or name.startswith((f"{_SUITE}.", f"{_SUITE}::")) for name in known.file_or_dir
    ):
        early_config.pluginmanager.import_plugin(f"{_SUITE}.pytest_plugin")
