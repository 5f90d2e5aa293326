"""Specs and annotations are those of PT2E, in name, order of fields and defaults; the package keeps to its promises."""

import dataclasses
import inspect

import pytest
import torch
import torchao.quantization.pt2e.quantizer as torchao_quantizer
from torch.fx import Graph

import quantizer_sdk as q
from quantizer_sdk import observers

SPECS = (
    "QuantizationSpec",
    "FixedQParamsQuantizationSpec",
    "SharedQuantizationSpec",
    "DerivedQuantizationSpec",
    "QuantizationAnnotation",
)


def first_scale(given):
    return given[0].calculate_qparams()


def examples():
    graph = Graph()
    x = graph.placeholder("x")
    y = graph.call_function(torch.ops.aten.relu.default, (x,))
    return (
        q.QuantizationSpec(torch.int8, observers.MinMaxObserver, -127, 127, torch.per_channel_symmetric, 1),
        q.QuantizationSpec(torch.int8, observers.MinMaxObserver.with_args(eps=0.5)),
        q.FixedQParamsQuantizationSpec(torch.uint8, 1 / 256, 0),
        q.SharedQuantizationSpec((x, y)),
        q.SharedQuantizationSpec(x),
        q.DerivedQuantizationSpec([(x, y), x], first_scale, torch.int32),
    )


@pytest.mark.parametrize("name", SPECS)
def test_fields_are_those_of_torchao_in_their_order_and_with_their_defaults(name):
    ours, theirs = dataclasses.fields(getattr(q, name)), dataclasses.fields(getattr(torchao_quantizer, name))
    assert [field.name for field in ours] == [field.name for field in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one.name == "observer_or_fake_quant_ctr":
            continue  # theirs must be given
        assert (one.default, one.default_factory) == (other.default, other.default_factory), one.name


def test_observer_constructor_may_be_left_out():
    assert q.QuantizationSpec(torch.int8).observer_or_fake_quant_ctr is None


@pytest.mark.parametrize("index", range(6))
def test_specs_are_values(index):
    spec = examples()[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, dataclasses.fields(spec)[0].name, None)
    assert not hasattr(spec, "__dict__")
    copied = dataclasses.replace(spec)
    assert copied == spec
    assert hash(copied) == hash(spec)
    assert {spec: "found"}[copied] == "found"
    assert isinstance(spec, q.QuantizationSpecBase)


def test_specs_that_differ_in_any_field_are_not_equal():
    spec = q.QuantizationSpec(torch.int8, None, -127, 127, torch.per_channel_symmetric, 0)
    others = {"dtype": torch.int16, "quant_min": -128, "quant_max": 126, "qscheme": None, "ch_axis": 1}
    for name, value in others.items():
        assert dataclasses.replace(spec, **{name: value}) != spec


def test_derived_sources_become_a_tuple_so_that_the_spec_can_be_hashed():
    spec = examples()[-1]
    assert isinstance(spec.derived_from, tuple)
    assert len(spec.derived_from) == 2


def test_derived_from_nothing_is_refused():
    with pytest.raises(q.InvalidSpecError, match="derived_from is empty"):
        q.DerivedQuantizationSpec([], first_scale, torch.int32)


@pytest.mark.parametrize("scheme", [torch.per_channel_symmetric, torch.per_channel_affine])
def test_fixed_qparams_hold_one_scale_so_a_per_channel_scheme_is_refused(scheme):
    with pytest.raises(q.InvalidSpecError, match=r"per_channel.*one scale"):
        q.FixedQParamsQuantizationSpec(torch.int8, 0.1, 0, qscheme=scheme)


def test_fixed_qparams_with_no_scheme_that_exists():
    with pytest.raises(q.InvalidSpecError, match="qscheme is 'affine'"):
        q.FixedQParamsQuantizationSpec(torch.int8, 0.1, 0, qscheme="affine")


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (torch.int8, -128, 127),
        (torch.uint8, 0, 255),
        (torch.int16, -32768, 32767),
        (torch.uint16, 0, 65535),
        (torch.int32, -(2**31), 2**31 - 1),
    ],
)
def test_the_whole_range_of_a_dtype_is_accepted_and_not_one_code_more(dtype, low, high):
    q.QuantizationSpec(dtype, None, low, high)
    for wrong in ((low - 1, high), (low, high + 1)):
        with pytest.raises(q.InvalidSpecError, match=f"whose codes are {low}..{high}"):
            q.QuantizationSpec(dtype, None, *wrong)


def test_annotation_defaults():
    annotation = q.QuantizationAnnotation()
    assert annotation.input_qspec_map == {}
    assert annotation.output_qspec is None
    assert annotation.allow_implicit_sharing is True
    assert annotation._annotated is False  # set by quantizers of the PT2E ecosystem, so a part of the contract


def test_annotations_do_not_share_their_map():
    first, second = q.QuantizationAnnotation(), q.QuantizationAnnotation()
    first.input_qspec_map["x"] = None
    assert second.input_qspec_map == {}


def test_config_fields_are_those_of_torchao():
    ours = [field.name for field in dataclasses.fields(q.QuantizationConfig)]
    assert ours == [field.name for field in dataclasses.fields(torchao_quantizer.QuantizationConfig)]


def public_names():
    return [(module, name) for module in (q, observers) for name in module.__all__]


@pytest.mark.parametrize(("module", "name"), public_names(), ids=lambda value: getattr(value, "__name__", value))
def test_public_name_is_there_and_documented(module, name):
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        own = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
        assert own, f"{name} has no docstring of its own"
        assert not own.startswith(f"{name}("), f"{name} has only the docstring that dataclass made"


def test_public_methods_are_documented():
    missing = [
        f"{name}.{attribute}"
        for module, name in public_names()
        if inspect.isclass(getattr(module, name))
        for attribute, member in vars(getattr(module, name)).items()
        if not attribute.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod)))
        and not inspect.getdoc(getattr(getattr(module, name), attribute))
    ]
    assert not missing


def test_no_public_name_is_listed_twice():
    for module in (q, observers):
        assert len(set(module.__all__)) == len(module.__all__)
