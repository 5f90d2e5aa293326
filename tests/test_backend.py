"""How a backend is found by its entry point."""

import importlib.metadata

import pytest

from quantizer_sdk import Backend, BackendError, Executable, backend_names, find_backend
from quantizer_sdk.backend import ENTRY_POINT_GROUP, Boundary, Delegation
from quantizer_sdk.backends.executorch.program import ExecuTorchProgram
from quantizer_sdk.backends.xnnpack import BACKEND, XNNPACKQuantizer

NOTHING = Delegation(subgraphs=0, delegated=0, non_delegated=())


def test_the_installed_backend_is_found():
    assert "xnnpack" in backend_names()
    backend = find_backend("xnnpack")
    assert backend is BACKEND
    assert isinstance(backend, Backend)
    assert isinstance(backend.quantizer(), XNNPACKQuantizer)


def test_its_programs_are_executables():
    assert isinstance(ExecuTorchProgram(b"", NOTHING, lambda _program: (), Boundary()), Executable)


def test_a_name_that_is_not_there_lists_those_that_are():
    with pytest.raises(BackendError, match=r"no backend 'acme'; installed: .*xnnpack"):
        find_backend("acme")


def test_an_entry_point_to_something_else(monkeypatch):
    point = importlib.metadata.EntryPoint("acme", "builtins:list", ENTRY_POINT_GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group else [])
    with pytest.raises(BackendError, match=r"'acme' \(builtins:list\) is a type; expected a Backend"):
        find_backend("acme")
