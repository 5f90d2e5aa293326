"""From a name to a backend."""

import pytest
from tiny_backends import TINY, Tiny

from quantizer_sdk import BackendError, find_backend
from quantizer_sdk.conformance.plug import load_backend


def test_an_entry_point():
    assert load_backend("xnnpack") is find_backend("xnnpack")


def test_a_backend_by_its_dotted_name():
    assert load_backend("tiny_backends:TINY") is TINY


def test_a_quantizer_by_its_dotted_name_has_neither_runner_nor_profile():
    backend = load_backend("tiny_backends:Tiny")
    assert (backend.name, backend.runner, backend.profile) == ("tiny_backends:Tiny", None, None)
    assert isinstance(backend.quantizer(), Tiny)


def test_another_backend_lends_runner_and_profile():
    lender = find_backend("xnnpack")
    backend = load_backend("tiny_backends:Tiny", runner="xnnpack", profile="xnnpack")
    assert (backend.runner, backend.profile) == (lender.runner, lender.profile)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:X", "cannot load 'no_such_module:X'.*expected package.module:Name"),
        ("tiny_backends:Missing", "cannot load 'tiny_backends:Missing'"),
        ("tiny_backends:NUMBER", "is a int; expected a Quantizer class"),
        ("tiny_backends:needs_an_argument", "cannot be called without arguments.*give it defaults"),
        ("builtins:dict", r"gives a dict; expected a Quantizer, with annotate\(\) and validate\(\)"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(name, message):
    with pytest.raises(BackendError, match=message):
        load_backend(name)


@pytest.mark.parametrize("option", ["runner", "profile"])
def test_a_lender_without_the_thing_is_refused(option, monkeypatch):
    monkeypatch.setattr("quantizer_sdk.conformance.plug.find_backend", lambda _: load_backend("tiny_backends:Tiny"))
    with pytest.raises(BackendError, match=f"--{option} bare: that backend has no {option} to lend"):
        load_backend("tiny_backends:Tiny", **{option: "bare"})
