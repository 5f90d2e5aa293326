"""Linear layers whose activations each run quantizes: kernels, exact numbers, and what is refused by name."""

from dataclasses import replace

import dynamic_kernels as dynamic
import pytest
import torch
from quantizers import Apply
from torch import nn

from quantizer_sdk import (
    NothingAnnotatedError,
    QuantizationConfig,
    UnsupportedError,
    convert_pt2e,
    explain,
    prepare_pt2e,
    prepare_qat_pt2e,
)
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.errors import RuleError
from quantizer_sdk.observers import PerTensor, PlaceholderObserver

pytest.importorskip("executorch")

FORMS = [((64,), True), ((1, 64), False), ((5, 64), True), ((5, 64), False), ((2, 3, 64), True), ((2, 3, 4, 64), True)]
FC = ("FullyConnected", "qdint8", "qcint8", "fp32")


@pytest.mark.parametrize(("shape", "bias"), FORMS)
def test_the_kernel_to_the_bit(export, shape, bias):
    x = torch.randn(shape) * 3 + 0.7
    model = dynamic.quantized(export, nn.Linear(64, 9, bias=bias), x)
    program, kernels = dynamic.lowered(model, x)
    assert kernels == [FC if bias else FC[:3]]
    (y,) = program.run(x)
    assert torch.equal(y, dynamic.linear(x, model.state_dict()))
    assert torch.allclose(y, model(x), rtol=0, atol=1e-6)  # the graph scales each product, the kernel their sum


def test_rows_without_a_range(export):
    x = torch.stack((torch.zeros(64), torch.full((64,), 2.5), torch.full((64,), -2.5), torch.randn(64) * 1e-9))
    model = dynamic.quantized(export, nn.Linear(64, 9), x)
    (y,) = dynamic.lowered(model, x)[0].run(x)
    assert torch.equal(y, dynamic.linear(x, model.state_dict()))
    assert torch.allclose(y, model(x), rtol=0, atol=1e-6)


def test_rows_are_quantized_each_by_itself(export):
    x = torch.randn(4, 64)
    model = dynamic.quantized(export, nn.Linear(64, 9), x)
    program, _ = dynamic.lowered(model, x)
    (before,) = program.run(x)
    louder = x * torch.tensor([1.0, 1.0, 1000.0, 1.0]).reshape(4, 1)
    (after,) = program.run(louder)
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])


def test_not_a_number_stays_in_its_row(export):
    x = torch.randn(3, 64)
    model = dynamic.quantized(export, nn.Linear(64, 9), x)
    program, _ = dynamic.lowered(model, x)
    spoilt = x.clone()
    spoilt[1, 2] = torch.nan
    (y,) = program.run(spoilt)
    assert torch.equal(y[[0, 2]], dynamic.linear(x, model.state_dict())[[0, 2]])


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.5)])
def test_activations_are_fused(export, activation):
    x = 4 * torch.randn(5, 64)
    model = dynamic.quantized(export, nn.Sequential(nn.Linear(64, 9), activation), x)
    program, kernels = dynamic.lowered(model, x)
    assert kernels == [FC]
    state = {key.removeprefix("0."): value for key, value in model.state_dict().items()}
    assert torch.equal(program.run(x)[0], activation(dynamic.linear(x, state)))


def test_readers_of_one_tensor_and_views_between(export):
    def run(self, x):
        return self.q(x) + self.k(x), self.v(x.reshape(6, 64)).reshape(2, 3, 8).relu()

    module = Apply(run, q=nn.Linear(64, 8), k=nn.Linear(64, 8), v=nn.Linear(64, 8))
    x = torch.randn(2, 3, 64)
    model = dynamic.quantized(export, module, x)
    program, kernels = dynamic.lowered(model, x)
    assert [kernel for kernel in kernels if kernel[0] == "FullyConnected"] == [FC] * 3
    for actual, expected in zip(program.run(x), model(x), strict=True):
        assert torch.allclose(actual, expected, rtol=0, atol=2e-6)


def test_batches_of_any_size(export):
    shapes = ({0: torch.export.Dim("batch", max=32)},)
    x = torch.randn(16, 64)
    quantizer = XNNPACKQuantizer().set_global(dynamic.config())
    model = convert_pt2e(prepare_pt2e(export(nn.Linear(64, 9), x, dynamic_shapes=shapes), quantizer))
    program, _ = dynamic.lowered(model, x, dynamic_shapes=shapes)
    for size in (1, 32, 7):
        x = torch.randn(size, 64)
        assert torch.equal(program.run(x)[0], dynamic.linear(x, model.state_dict()))


def test_static_and_dynamic_layers_in_one_model(export, quantize):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    x = torch.randn(2, 3, 6, 6)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_operator_type(torch.ops.aten.linear.default, dynamic.config())
    model = quantize(export(module, x), quantizer, x)
    _, kernels = dynamic.lowered(model, x)
    assert ("Conv2d", "qint8", "qcint8", "qcint32") in kernels
    assert FC in kernels


def test_a_bias_that_a_static_layer_shares_stays_float_here(export, quantize):
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    module[1].bias = module[0].bias
    x = torch.randn(5, 64)
    quantizer = XNNPACKQuantizer().set_global(dynamic.config())
    quantizer.set_module_name("1", get_symmetric_quantization_config(is_per_channel=True))
    model = quantize(export(module, x), quantizer, x)
    assert dynamic.lowered(model, x)[1][0] == FC


@pytest.mark.parametrize(
    ("module", "shape", "op", "words"),
    [
        (Apply(lambda _, x: x + x.relu()), (2, 8), "add", "dynamic spec; the kernel takes static ones"),
        (nn.MaxPool2d(2), (1, 2, 4, 4), "max_pool2d", "dynamic spec; the kernel takes static ones"),
        (Apply(lambda _, x: x.reshape(4, 4).relu()), (2, 8), "reshape", "dynamic spec; the kernel takes static ones"),
        (nn.Conv1d(4, 4, 3), (1, 4, 8), "conv1d", "at run time the kernel quantizes images"),
    ],
)
def test_ops_without_such_a_kernel_stay_float(export, module, shape, op, words):
    x = torch.randn(shape)
    model = dynamic.quantized(export, nn.Sequential(module, nn.Linear(module(x).shape[-1], 4)), x)
    (record,) = [record for record in explain(model).ops if record.node == op]
    assert record.state == "float"
    assert words in record.reason


def test_training_rounds_each_row_by_its_own_range(export):
    x = torch.randn(5, 64)
    quantizer = XNNPACKQuantizer().set_global(dynamic.config(is_qat=True))
    prepared = prepare_qat_pt2e(export(nn.Linear(64, 9), x), quantizer)
    trained = prepared(x)
    assert not torch.equal(trained, prepare_pt2e(export(nn.Linear(64, 9), x), quantizer)(x))
    model = convert_pt2e(prepared)
    assert torch.allclose(trained, model(x), atol=1e-6)
    assert torch.equal(dynamic.lowered(model, x)[0].run(x)[0], dynamic.linear(x, model.state_dict()))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"is_dynamic": True}, UnsupportedError, "is_dynamic=True with is_per_channel=False .*is_per_channel=True"),
        ({"bits": 4}, UnsupportedError, "bits=4 with is_per_channel=False"),
        ({"bits": 5, "is_per_channel": True}, UnsupportedError, "bits=5; .* 8 or 4 bits"),
        ({"group_size": 32, "is_dynamic": True, "is_per_channel": True}, UnsupportedError, "group_size=32 with bits=8"),
        (
            {"group_size": 48, "bits": 4, "is_dynamic": True, "is_per_channel": True},
            UnsupportedError,
            "group_size=48 .*multiples of 32",
        ),
        ({"is_dynamic": True, "is_per_channel": True, "act_qmin": 0}, RuleError, r"0\.\.127; .* -128\.\.127"),
        ({"bits": 4, "is_per_channel": True, "weight_qmax": 6}, RuleError, r"-127\.\.6; with bits=4 it is -8\.\.7"),
        (
            {"is_dynamic": True, "is_per_channel": True, "activation_observer": nn.Identity},
            RuleError,
            "activation_observer is .*each run chooses its own",
        ),
    ],
)
def test_configs_without_a_kernel(options, error, words):
    with pytest.raises(error, match=words):
        get_symmetric_quantization_config(**options)


def test_specs_that_no_kernel_takes_together_are_refused(export):
    whole, static = dynamic.config(), dynamic.config(is_dynamic=False)
    per_tensor = PlaceholderObserver.with_args(granularity=PerTensor())
    refused = {
        "no spec for input_activation": (None, None, static.weight),
        "no spec for output_activation": (static.input_activation, None, static.weight),
        "no spec for weight": (whole.input_activation, None, None),
        "its result has a dynamic spec": (whole.input_activation, whole.input_activation, whole.weight),
        "one scale for the weight": (whole.input_activation, None, get_symmetric_quantization_config().weight),
        r"has PerTensor\(\); at run time the kernel takes PerToken\(\)": (
            replace(whole.input_activation, observer_or_fake_quant_ctr=per_tensor),
            None,
            whole.weight,
        ),
    }
    for words, specs in refused.items():
        quantizer = XNNPACKQuantizer().set_global(QuantizationConfig(*specs))
        with pytest.raises(NothingAnnotatedError, match=words):
            prepare_pt2e(export(nn.Linear(64, 9), torch.randn(5, 64)), quantizer)


def test_addmm(export):
    module = Apply(lambda self, x: torch.addmm(self.fc.bias, x, self.fc.weight), fc=nn.Linear(64, 48))
    module.fc.bias = nn.Parameter(torch.randn(64))
    x = torch.randn(5, 48)
    model = dynamic.quantized(export, module, x)
    program, kernels = dynamic.lowered(model, x)
    assert kernels == [FC]
    state = {key.removeprefix("fc."): value for key, value in model.state_dict().items()}
    (state["weight_scale"],) = (value for key, value in state.items() if key.endswith("_scale"))
    assert torch.equal(program.run(x)[0], dynamic.linear(x, state))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("between", [nn.Identity, nn.Softmax])
def test_products_by_parameters_are_linear_layers(bits, between, export):
    # Among float ops too: ExecuTorch takes an addmm's operand for an image if a convolution comes anywhere after it.
    addmm = Apply(lambda self, x: torch.addmm(self.fc.bias, x, self.fc.weight.t()), fc=nn.Linear(64, 48))
    matmul = Apply(lambda self, x: x @ self.fc.weight.t(), fc=nn.Linear(48, 80))
    module = nn.Sequential(addmm, between(-1), matmul, nn.Unflatten(1, (5, 4, 4)), nn.Conv2d(5, 4, 3))
    x = torch.randn(5, 64)
    model = dynamic.quantized(export, nn.Sequential(*module[:4]) if bits == 4 else module, x, bits=bits)
    assert explain(model).count("quantized") >= (2 if bits == 4 else 3)
    program, kernels = dynamic.lowered(model, x)
    weight = "qcint4" if bits == 4 else "qcint8"
    assert [kernel[2] for kernel in kernels if kernel[0] == "FullyConnected"] == [weight, weight]
    assert torch.allclose(program.run(x)[0], model(x), rtol=0, atol=1e-5)
