"""A bias that its derived scale is too fine for makes the weight's scale coarser, or is refused by name."""

import pytest
import torch
from quantizers import INT8, Apply, by_hand
from torch import nn
from torch.nn import functional

from quantizer_sdk import (
    DerivedQuantizationSpec,
    InvalidAnnotationError,
    QuantizationSpec,
    UnsupportedError,
    calibrate,
    convert_pt2e,
    prepare_pt2e,
)
from quantizer_sdk.table import product_of_scales

X = torch.randn(8, 4)
WEIGHT = QuantizationSpec(torch.int8, None, -127, 127, torch.per_channel_symmetric, 0)
DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_channel.default


def tiny(out=3):
    """A layer whose first channel is all bias."""
    layer = nn.Linear(4, out)
    with torch.no_grad():
        layer.weight[0] = 1e-9
        layer.bias[0] = 7.0
    return layer


def bias_spec(*sources, fn=product_of_scales):
    def make(nodes):
        points = [(nodes[producer], nodes[user]) for producer, user in sources]
        return DerivedQuantizationSpec(points, fn, torch.int32, qscheme=torch.per_channel_symmetric, ch_axis=0)

    return make


def converted(model, quantizer, x):
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, [x])
    return convert_pt2e(prepared)


def test_the_scale_of_that_channel_alone_becomes_coarser(export):
    model = export(tiny(), X)
    sources = [("input_1", "linear"), ("weight", "linear")]
    quantizer = by_hand({"linear": ({"input_1": INT8, "weight": WEIGHT, "bias": bias_spec(*sources)}, INT8)})
    result = converted(model, quantizer, X)
    codes = result.state_dict()["bias"]
    assert codes.dtype == torch.int32
    assert codes[0].abs() <= 2**30 + 1
    assert codes[0].abs() >= 2**29  # no coarser than it must be
    scales = result.state_dict()["weight_scale"]
    plain = model.state_dict()["weight"].abs().amax(1) / 127
    assert scales[0] > plain[0]
    assert torch.equal(scales[1:], plain[1:])
    assert (result(X) - model(X)).abs().max() < 0.1


def test_two_biases_beside_one_weight_both_fit(export):
    def run(self, x, y):
        return functional.linear(x, self.w, self.b) + functional.linear(y, self.w, self.c)

    layer = tiny()
    module = Apply(run, w=layer.weight, b=layer.bias, c=nn.Parameter(3 * layer.bias.detach()))
    model = export(module, X, X / 100)
    quantizer = by_hand(
        {
            "linear": ({"x": INT8, "w": WEIGHT, "b": bias_spec(("x", "linear"), ("w", "linear"))}, INT8),
            "linear_1": (
                {"others_0": INT8, "w": WEIGHT, "c": bias_spec(("others_0", "linear_1"), ("w", "linear_1"))},
                INT8,
            ),
        }
    )
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, [(X, X / 100)])
    state = convert_pt2e(prepared).state_dict()
    largest = {name: int(state[name][0].abs()) for name in ("b", "c")}
    assert max(largest.values()) <= 2**30 + 1
    assert max(largest.values()) >= 2**29  # the floor is that of the one that needs more, and not their product


def test_a_bias_derived_from_no_weight_is_refused_by_name(export):
    model = export(tiny(), X)

    def far_too_fine(_observers):
        return torch.full((3,), 1e-12), torch.zeros(3, dtype=torch.int32)

    quantizer = by_hand(
        {"linear": ({"input_1": INT8, "bias": bias_spec(("input_1", "linear"), fn=far_too_fine)}, INT8)}
    )
    with pytest.raises(UnsupportedError, match=r"bias .*holds 7, which does not fit .*derive from one weight"):
        converted(model, quantizer, X)


def test_scales_along_the_input_channels_are_refused_by_name(export):
    along_inputs = QuantizationSpec(torch.int8, None, -127, 127, torch.per_channel_symmetric, 1)
    bias = bias_spec(("input_1", "linear"), ("weight", "linear"))
    quantizer = by_hand({"linear": ({"input_1": INT8, "weight": along_inputs, "bias": bias}, INT8)})
    with pytest.raises(InvalidAnnotationError, match=r"bias.* has 3 channels, .* those of 4; .* output channels"):
        converted(export(tiny(), X), quantizer, X)
