"""Linear layers with weights of 4 bits: by channel or group, beside dynamic or static activations."""

import re

import dynamic_kernels as dynamic
import pytest
import torch
from torch import nn

from quantizer_sdk import (
    NothingAnnotatedError,
    QuantizationConfig,
    QuantizationSpec,
    convert_pt2e,
    prepare_pt2e,
    prepare_qat_pt2e,
)
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer
from quantizer_sdk.observers import MinMaxObserver, PerGroup

pytest.importorskip("executorch")


@pytest.mark.parametrize(("shape", "bias"), [((5, 64), True), ((5, 64), False), ((1, 2), True), ((2, 3, 18), True)])
def test_a_scale_for_each_channel(export, shape, bias):
    x = torch.randn(shape) * 3 + 0.7
    model = dynamic.quantized(export, nn.Linear(shape[-1], 9, bias=bias), x, bits=4)
    state = model.state_dict()
    assert state["weight"].aminmax() == (-8, 7) or shape[-1] == 2
    program, kernels = dynamic.lowered(model, x)
    assert kernels == [("FullyConnected", "qdint8", "qcint4", "fp32")[: 4 if bias else 3]]
    (y,) = program.run(x)
    assert torch.equal(y, dynamic.linear(x, state))
    assert torch.allclose(y, model(x), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("features", "size", "bias"), [(64, 32, False), (256, 32, True), (128, 64, True)])
def test_a_scale_for_each_group(export, features, size, bias):
    x = torch.randn(5, features) * 3 + 0.7
    model = dynamic.quantized(export, nn.Linear(features, 9, bias=bias), x, bits=4, group_size=size)
    program, kernels = dynamic.lowered(model, x)
    assert kernels == [("FullyConnected", "qdint8", "qbint4", "fp32")[: 4 if bias else 3]]
    state = model.state_dict()
    assert torch.equal(state["weight_scale"], state["weight_scale"].bfloat16().float())  # as XNNPACK stores them
    (y,) = program.run(x)
    assert torch.equal(y, dynamic.linear_of_groups(x, state, size))
    assert torch.allclose(y, model(x), rtol=0, atol=2e-6)


def test_one_group_is_a_channel(export):
    x = torch.randn(5, 32)
    model = dynamic.quantized(export, nn.Linear(32, 9), x, bits=4, group_size=32)
    program, kernels = dynamic.lowered(model, x)
    assert kernels == [("FullyConnected", "qdint8", "qcint4", "fp32")]
    assert torch.equal(program.run(x)[0], dynamic.linear(x, model.state_dict()))


def test_beside_static_activations(export, quantize):
    x = torch.randn(5, 64)
    quantizer = XNNPACKQuantizer().set_global(dynamic.config(is_dynamic=False, bits=4))
    model = quantize(export(nn.Sequential(nn.Linear(64, 9), nn.ReLU()), x), quantizer, x)
    program, kernels = dynamic.lowered(model, x)
    assert kernels == [("FullyConnected", "qint8", "qcint4", "qcint32")]
    assert torch.equal(program.run(x)[0], model(x))


@pytest.mark.parametrize("group_size", [None, 32])
def test_training(export, group_size):
    x = torch.randn(5, 64)
    quantizer = XNNPACKQuantizer().set_global(dynamic.config(is_qat=True, bits=4, group_size=group_size))
    prepared = prepare_qat_pt2e(export(nn.Linear(64, 9), x), quantizer)
    trained = prepared(x)
    trained.sum().backward()
    model = convert_pt2e(prepared)
    assert torch.allclose(trained, model(x), atol=1e-5)
    assert dynamic.lowered(model, x)[1][0][2] == ("qcint4" if group_size is None else "qbint4")


@pytest.mark.parametrize("is_dynamic", [True, False])
@pytest.mark.parametrize(
    ("module", "shape", "options", "words"),
    [
        (nn.Linear(33, 9), (5, 33), {}, "33 input features; .*multiples of 2, others wrongly"),
        (nn.Conv2d(4, 8, 1), (1, 4, 5, 5), {}, "only that of linear"),
        (nn.ConvTranspose2d(4, 8, 3), (1, 4, 5, 5), {}, "only that of linear"),
    ],
    ids=["odd", "conv", "transposed"],
)
def test_without_a_kernel_it_is_refused(export, module, shape, options, words, is_dynamic):
    with pytest.raises(NothingAnnotatedError, match=words):
        dynamic.quantized(export, module, torch.randn(shape), bits=4, is_dynamic=is_dynamic, **options)


@pytest.mark.parametrize(
    ("size", "ends", "words"),
    [
        (32, (-8, 7), "48 input features; .* multiples of 32"),
        (24, (-8, 7), r"groups of 24 in -8\.\.7; dynamic kernels take multiples of 32"),
        (16, (-127, 127), r"groups of 16 in -127\.\.127"),
    ],
)
def test_groups_without_a_kernel_are_refused(export, size, ends, words):
    observer = MinMaxObserver.with_args(granularity=PerGroup(size))
    weight = QuantizationSpec(torch.int8, observer, *ends, torch.per_tensor_symmetric)
    config = QuantizationConfig(dynamic.config().input_activation, None, weight)
    with pytest.raises(NothingAnnotatedError) as raised:
        prepare_pt2e(export(nn.Linear(48, 9), torch.randn(5, 48)), XNNPACKQuantizer().set_global(config))
    assert re.search(words, str(raised.value))
