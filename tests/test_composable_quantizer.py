"""Several quantizers on one model."""

import pytest
import torch
from annotations import KEY, Nested, input_dtypes
from quantizers import CONFIG, INT8, UINT8, WEIGHT8, ByHand, SmallTable, annotation

from quantizer_sdk import (
    ComposableQuantizer,
    InvalidAnnotationError,
    QuantizationConfig,
    Quantizer,
    calibrate,
    convert_pt2e,
    prepare_pt2e,
)

OTHER = QuantizationConfig(UINT8, UINT8, WEIGHT8)
ROW = torch.randn(2, 4)


@pytest.fixture(scope="module")
def nested(export):
    return export(Nested(), ROW)


def table():
    return SmallTable().set_global(CONFIG)


def only(name, config=CONFIG):
    return SmallTable().set_module_name(name, config)


def test_quantizers_annotate_what_those_before_them_left(nested):
    quantizer = ComposableQuantizer([only("first", CONFIG), SmallTable().set_global(OTHER)])
    dtypes = input_dtypes(nested, quantizer)
    assert dtypes["linear"] is torch.int8
    assert (dtypes["linear_2"], dtypes["add"]) == (torch.uint8, torch.uint8)
    reverse = ComposableQuantizer([SmallTable().set_global(OTHER), only("first", CONFIG)])
    assert set(input_dtypes(nested, reverse).values()) == {torch.uint8}


def test_a_composed_quantizer_converts_as_one_quantizer_with_those_rules_does(nested, quantize):
    converted = quantize(nested, ComposableQuantizer([only("first"), SmallTable().set_global(OTHER)]), ROW)
    by_rules = quantize(nested, SmallTable().set_global(OTHER).set_module_name("first", CONFIG), ROW)
    assert torch.equal(converted(ROW), by_rules(ROW))
    assert converted.code == by_rules.code


def test_a_quantizer_that_replaces_an_annotation_is_named(nested):
    def replace(nodes):
        nodes["linear"].meta[KEY] = annotation({}, INT8)

    with pytest.raises(InvalidAnnotationError, match=r"ByHand replaced the annotation .* on linear .*skip nodes"):
        prepare_pt2e(nested, ComposableQuantizer([table(), ByHand(replace)]))


def test_a_quantizer_that_removes_an_annotation_is_named(nested):
    with pytest.raises(InvalidAnnotationError, match=r"ByHand replaced the annotation"):
        prepare_pt2e(nested, ComposableQuantizer([table(), ByHand(lambda nodes: nodes["linear"].meta.pop(KEY))]))


def test_every_hook_of_every_quantizer_is_called_in_order(nested):
    calls = []

    class Recording(Quantizer):
        def __init__(self, name):
            self.name = name

        def transform_for_annotation(self, model):
            calls.append(("transform", self.name))
            return model

        def annotate(self, model):
            calls.append(("annotate", self.name))
            if self.name == "a":
                table().annotate(model)
            return model

        def validate(self, model):
            calls.append(("validate", self.name))

        def prepare_obs_or_fq_callback(self, model, edge_or_node_to_obs_or_fq):
            calls.append(("callback", self.name))

    prepared = prepare_pt2e(nested, ComposableQuantizer([Recording("a"), Recording("b")]))
    stages = ("transform", "annotate", "validate", "callback")
    assert calls == [(stage, name) for stage in stages for name in "ab"]
    calibrate(prepared, [ROW])
    assert convert_pt2e(prepared)(ROW).shape == ROW.shape
