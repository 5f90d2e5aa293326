"""What XNNPACK or ExecuTorch would crash on or compute wrongly: refused, rewritten or left float, and right.

Each model is quantized, lowered, loaded and run on the real runtime; its numbers are those of the q/dq graph.
"""

import dataclasses

import pytest
import torch
from on_codes import CONFIG, IMAGE, WEIGHT, Run, quantized, run_on_codes
from random_codes import rand
from torch import nn
from torch.nn import functional as F  # noqa: N812

from quantizer_sdk import (
    FixedQParamsQuantizationSpec,
    LoweringError,
    NothingAnnotatedError,
    ProductBiasSpec,
    QuantizationSpec,
    QuantizerError,
    explain,
    prepare_pt2e,
)
from quantizer_sdk.backend import strip_boundary
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config, lower

LEFT_FLOAT = {
    "linear_of_activations": (
        lambda _, a, b: F.linear(a.relu(), b.relu()),
        {},
        ((3, 4), (5, 4)),
        "operand 'weight' is computed at run time",
    ),
    "matmul_of_activations": (lambda _, a, b: a.relu() @ b.relu(), {}, ((3, 4), (4, 5)), "aten.matmul.default"),
    "bmm_of_activations": (
        lambda _, a, b: torch.bmm(a.relu(), b.relu()),
        {},
        ((2, 3, 4), (2, 4, 5)),
        "aten.bmm.default",
    ),
    "addmm_of_activations": (
        lambda m, a, b: torch.addmm(m.bias, a.relu(), b.relu()),
        {"bias": (5,)},
        ((3, 4), (4, 5)),
        "no row for aten.addmm.default",
    ),
    "conv_of_activations": (
        lambda _, a, b: F.conv2d(a.relu(), b.relu()),
        {},
        (IMAGE, (4, 4, 3, 3)),
        "operand 'weight' is computed at run time",
    ),
    "conv_of_a_product": (
        lambda m, x: F.conv2d(x.relu(), m.k * m.factor + m.k),
        {"k": (4, 4, 3, 3), "factor": (4, 1, 1, 1)},
        (IMAGE,),
        "operand 'weight' is computed at run time",
    ),
    "weight_norm": (
        lambda m, x: m.linear(x.relu()),
        {"linear": nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))},
        ((5, 4),),
        "operand 'weight' is computed at run time",
    ),
    "max_pool_ceil": (lambda _, x: F.max_pool2d(x.relu(), 3, ceil_mode=True), {}, (IMAGE,), "ceil_mode=True"),
    "max_pool_stride": (lambda _, x: F.max_pool2d(x.relu(), 2, stride=3), {}, (IMAGE,), "exceeds kernel_size"),
}


@pytest.mark.parametrize("name", LEFT_FLOAT)
def test_what_has_no_kernel_stays_float_with_its_reason_and_is_right(name, export):
    function, parts, shapes, reason = LEFT_FLOAT[name]
    inputs = [rand(*shape, seed=index) for index, shape in enumerate(shapes)]
    model = quantized(export, Run(function, **parts), *inputs)
    reasons = [op.reason for op in explain(model).float_ops()]
    assert any(reason in found for found in reasons), reasons
    run_on_codes(model, *inputs)


@pytest.mark.parametrize("factors", [{"alpha": 2}, {"beta": 3}, {"alpha": 0.5, "beta": 0}], ids=str)
def test_a_float_addmm_keeps_its_factors(factors, export):
    module = Run(lambda m, x: torch.addmm(m.bias, x, m.w, **factors), bias=(5,), w=(4, 5))
    x = rand(3, 4)
    (found,) = lower(export(module, x), (x,)).run(x)
    torch.testing.assert_close(found, module(x))


def test_conv3d_is_named_and_runs_nowhere(export):
    module = Run(lambda m, x: m.linear(m.conv(x).flatten(1)), conv=nn.Conv3d(2, 3, 3), linear=nn.Linear(81, 4))
    x = rand(1, 2, 5, 5, 5)
    model = quantized(export, module, x)
    (left,) = explain(model).float_ops()
    assert (left.op, left.reason) == ("aten.conv3d.default", "no row for aten.conv3d.default")
    with pytest.raises(LoweringError, match="aten::convolution"):
        lower(model, (x,)).run(x)


def gemm(channels=4, **options):
    torch.manual_seed(1)
    return nn.Conv2d(channels, 4, 3, **options)


RIGHT = {
    "conv_clamp": (lambda m, x: m.conv(x).clamp(-0.5, 0.5), {"conv": gemm()}, (IMAGE,)),
    "conv_clamp_from_above": (lambda m, x: m.conv(x).clamp(max=0.2), {"conv": gemm()}, (IMAGE,)),
    "conv_relu_clamp": (lambda m, x: m.conv(x).relu().clamp(max=0.2), {"conv": gemm()}, (IMAGE,)),
    "conv_clamp_and_more": (lambda m, x: m.conv(x).clamp(max=0.1) + m.conv(x), {"conv": gemm()}, (IMAGE,)),
    "transposed_clamp": (lambda m, x: m.conv(x).clamp(max=0.2), {"conv": nn.ConvTranspose2d(4, 4, 3)}, (IMAGE,)),
    "addmm_relu": (lambda m, x: torch.addmm(m.bias, x, m.w).relu(), {"bias": (5,), "w": (8, 5)}, ((30, 8),)),
    "bias_of_a_table": (
        lambda m, x: F.linear(x, m.linear.weight, m.table[1]),
        {"linear": nn.Linear(8, 5), "table": (3, 5)},
        ((30, 8),),
    ),
    "bias_of_the_weight": (lambda m, x: F.linear(x, m.w, m.w[:, 0]), {"w": (5, 8)}, ((30, 8),)),
    "hardtanh_to_its_default": (lambda _, x: F.hardtanh(x, -0.5, 1), {}, (IMAGE,)),
    "hardtanh_of_defaults": (lambda _, x: torch.ops.aten.hardtanh(x), {}, (IMAGE,)),
    "clamp_to_1": (lambda _, x: x.clamp(-0.5, 1), {}, (IMAGE,)),
    "conv_hardtanh_in_place": (lambda m, x: F.hardtanh(m.conv(x), -2, 1, inplace=True), {"conv": gemm()}, (IMAGE,)),
    "elu_of_defaults": (lambda _, x: torch.ops.aten.elu(x), {}, (IMAGE,)),
    "elu_in_place": (lambda _, x: F.elu(x * 2, inplace=True), {}, (IMAGE,)),
    "max_pool_relu": (lambda _, x: F.max_pool2d(x, 2).relu(), {}, (IMAGE,)),
    "max_pool_clamp": (lambda _, x: F.max_pool2d(x, 2).clamp(-0.2, 0.7), {}, (IMAGE,)),
    "conv_max_pool_relu": (lambda m, x: F.max_pool2d(m.conv(x), 2).relu(), {"conv": gemm()}, (IMAGE,)),
    "conv_two_pools_relu6": (
        lambda m, x: F.relu6(F.max_pool2d(F.max_pool2d(m.conv(x), 2), 2, 1)),
        {"conv": gemm()},
        (IMAGE,),
    ),
    "max_pool_read_twice": (lambda _, x: [y := F.max_pool2d(x, 2), y.relu() + y][1], {}, (IMAGE,)),
    "max_pool_dilated": (lambda _, x: F.max_pool2d(x.relu(), 2, dilation=2), {}, (IMAGE,)),
    "max_pool_padded": (lambda _, x: F.max_pool2d(x.relu(), 3, stride=1, padding=1), {}, (IMAGE,)),
    "avg_pool_ceil": (lambda _, x: F.avg_pool2d(x.relu(), 3, ceil_mode=True), {}, (IMAGE,)),
    "avg_pool_padded": (lambda _, x: F.avg_pool2d(x.relu(), 2, padding=1), {}, (IMAGE,)),
    "avg_pool_pad_not_counted": (
        lambda _, x: F.avg_pool2d(x.relu(), 2, padding=1, count_include_pad=False),
        {},
        (IMAGE,),
    ),
    "cat_of_two_ranges": (lambda _, a, b: torch.cat([a.relu(), (b * b).relu()], 1), {}, (IMAGE, IMAGE)),
    "slice": (lambda _, x: x.relu()[:, 1:3], {}, (IMAGE,)),
    "pad_end": (lambda _, x: F.pad(x.relu(), (1, 2, 0, 1)), {}, (IMAGE,)),
    "pad_erf": (lambda _, x: torch.erf(F.pad(x.relu(), (1, 1, 1, 1))), {}, (IMAGE,)),
    "conv_pad_erf": (lambda m, x: torch.erf(F.pad(m.conv(x).relu(), (1, 1))), {"conv": gemm()}, (IMAGE,)),
    "pad_of_ones": (lambda _, x: torch.erf(F.pad(x.relu(), (1, 1), value=1.0)), {}, (IMAGE,)),
    "linear_of_a_constant": (
        lambda m, x: m.linear(m.k).relu() + x,
        {"linear": nn.Linear(4, 4), "k": (2, 4)},
        ((2, 4),),
    ),
    "grouped_conv": (lambda m, x: m.conv(x), {"conv": gemm(groups=2)}, (IMAGE,)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_compiler_or_runtime_would_get_wrong_is_right(name, export):
    function, parts, shapes = RIGHT[name]
    inputs = [rand(*shape, seed=index) for index, shape in enumerate(shapes)]
    run_on_codes(quantized(export, Run(function, **parts), *inputs), *inputs)


def test_a_weight_shared_with_an_embedding_stays_that_of_both(export):
    table = nn.Embedding(7, 4)
    module = Run(lambda m, index: F.linear(m.table(index), m.table.weight), table=table)
    indices = torch.tensor([[1, 2, 3], [0, 6, 5]])
    model = quantized(export, module, indices)
    program = run_on_codes(model, indices)
    assert "FullyConnected" in {kernel.name for kernel in program.kernels() if kernel.integer}
    assert program.delegation().non_delegated == ("aten.embedding.default",)


def test_a_layer_with_a_bias_called_twice_rounds_it_for_each_call(export):
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    with torch.no_grad():
        layer.bias.fill_(0.37)
    x = rand(64, 6)
    model = quantized(export, Run(lambda m, x: (m.layer(x), m.layer(x * 40)), layer=layer), x)
    biases = {name: value for name, value in model.state_dict().items() if "bias" in name}
    assert len(biases) == 2
    run_on_codes(model, x)


def test_padding_before_an_op_excluded_by_a_rule(export):
    module = Run(lambda m, x: m.second(F.pad(m.first(x), (1, 1, 1, 1))), first=gemm(), second=gemm())
    x = rand(*IMAGE)
    alone = XNNPACKQuantizer().set_module_name("first", CONFIG)  # the pad itself has no rule
    without = XNNPACKQuantizer().set_global(CONFIG).set_module_name("second", None)
    for quantizer in (alone, without):
        model = quantized(export, module, x, quantizer=quantizer)
        (found,) = lower(model, (x,)).run(x)
        torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5)


def test_batch_norm_in_training_mode_is_named(export):
    module = nn.Sequential(gemm(), nn.BatchNorm2d(4))
    x = rand(*IMAGE)
    exported = torch.export.export(module.train(), (x,)).module()
    report = explain(exported, XNNPACKQuantizer())
    (reason,) = (op.reason for op in report.float_ops() if "batch_norm" in op.op)
    assert "exported in training mode" in reason


def replaced(**fields):
    return dataclasses.replace(CONFIG, **fields)


REFUSED_CONFIGS = {
    "uint8": (
        replaced(input_activation=QuantizationSpec(torch.uint8), output_activation=QuantizationSpec(torch.uint8)),
        "input_activation is torch.uint8; XNNPACK's kernels take torch.int8; output_activation is torch.uint8",
    ),
    "int16": (replaced(input_activation=QuantizationSpec(torch.int16)), "input_activation is torch.int16"),
    "uint8_weight": (
        replaced(weight=QuantizationSpec(torch.uint8, qscheme=torch.per_tensor_affine)),
        "weight is torch.uint8; XNNPACK's kernels take torch.int8; the weight's qscheme is torch.per_tensor_affine",
    ),
    "affine_weight": (
        replaced(weight=dataclasses.replace(WEIGHT, qscheme=torch.per_channel_affine)),
        "XNNPACK drops the zero point of an affine weight",
    ),
    "channel_axis": (replaced(weight=dataclasses.replace(WEIGHT, ch_axis=1)), "the weight's ch_axis is 1"),
    "float_result": (replaced(output_activation=None), "no spec for output_activation"),
    "float_weight": (replaced(weight=None, bias=None), "no spec for weight"),
    "float_operand": (replaced(input_activation=None, bias=None), "no spec for input_activation"),
    "integer_bias": (replaced(bias=ProductBiasSpec()), "the bias is stored as integers"),
    "dynamic_per_tensor": (
        dataclasses.replace(
            CONFIG,
            input_activation=QuantizationSpec(torch.int8, qscheme=torch.per_tensor_affine, is_dynamic=True),
            output_activation=None,
            weight=get_symmetric_quantization_config(is_per_channel=False).weight,
            bias=None,
        ),
        "one scale for the weight",
    ),
}


@pytest.mark.parametrize("name", REFUSED_CONFIGS)
def test_a_config_that_no_kernel_has_leaves_the_layer_float_with_its_reason(name, export):
    config, reason = REFUSED_CONFIGS[name]
    module = Run(lambda m, x: m.layer(x.relu()), layer=nn.Linear(6, 5))
    x = rand(3, 6)
    quantizer = XNNPACKQuantizer().set_global(CONFIG).set_module_name("layer", config)
    model = quantized(export, module, x, quantizer=quantizer)
    (left,) = explain(model).float_ops()
    assert reason in left.reason
    run_on_codes(model, x)
    with pytest.raises(NothingAnnotatedError, match="linear"):
        prepare_pt2e(export(nn.Linear(6, 5), x), XNNPACKQuantizer().set_global(config))


def test_dynamic_weights_of_one_scale_are_refused_where_the_config_is_made():
    with pytest.raises(QuantizerError, match="is_per_channel"):
        get_symmetric_quantization_config(is_dynamic=True)


def test_4_bits_in_rows_of_odd_length_are_refused(export):
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True, bits=4)
    x = rand(3, 7)
    report = explain(export(nn.Linear(7, 5), x), XNNPACKQuantizer().set_global(config))
    (left,) = report.float_ops()
    assert "7 input features" in left.reason


def fixed(scale):
    return FixedQParamsQuantizationSpec(torch.int8, scale, 0, -128, 127, torch.per_tensor_affine)


def with_scales(scale_in, scale_out, operation):
    config = replaced(input_activation=fixed(scale_in), output_activation=fixed(scale_out))
    return XNNPACKQuantizer().set_operator_type(operation, config)


ROWS = (3, 6)
TOO_FAR = {
    "linear": (Run(lambda m, x: m.layer(x), layer=nn.Linear(6, 5)), torch.ops.aten.linear, 1e5, ROWS),
    "conv2d": (Run(lambda m, x: m.layer(x), layer=nn.Conv2d(6, 5, 1)), torch.ops.aten.conv2d, 1e5, (3, 6, 1, 1)),
    "add": (Run(lambda m, x: x + m.k, k=(6,)), torch.ops.aten.add.Tensor, 2.0**20, ROWS),
    "sub": (Run(lambda m, x: x - m.k, k=(6,)), torch.ops.aten.sub.Tensor, 2.0**20, ROWS),
    "mul": (Run(lambda m, x: x * m.k, k=(6,)), torch.ops.aten.mul.Tensor, 2.0**20, ROWS),
}


@pytest.mark.parametrize("name", TOO_FAR)
def test_a_result_of_too_small_a_scale_is_refused_by_name(name, export):
    module, operation, ratio, shape = TOO_FAR[name]
    x = rand(*shape)
    model = quantized(export, module, x, quantizer=with_scales(1.0, 1 / ratio, operation))
    with pytest.raises(LoweringError, match=rf"{name}.* is requantized by .*the kernel takes ratios below"):
        lower(model, (x,))


@pytest.mark.parametrize("name", TOO_FAR)
@pytest.mark.parametrize("ratio", [2.0**-31, 200.0], ids=["2^-31", "200"])
def test_results_of_scales_that_kernels_take_are_right(name, ratio, export):
    module, operation, _, shape = TOO_FAR[name]
    x = rand(*shape)
    small = 0.01 if name in {"linear", "conv2d", "mul"} else 1.0  # the other operand's scale counts too
    model = quantized(export, module, x, quantizer=with_scales(1.0, small / ratio, operation))
    program = lower(model, (x,), integer_io=True)
    stripped, _ = strip_boundary(model, (x,))
    codes = torch.arange(-9, 9, dtype=torch.int8).reshape(shape) * 14
    (found,), expected = program.run(codes), stripped(codes)
    assert (found.int() - (expected if isinstance(expected, torch.Tensor) else expected[0]).int()).abs().max() <= 1


@pytest.mark.parametrize("deviation", [1e-3, 1e-4])
def test_tiny_weights_keep_their_precision(deviation, export):
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    with torch.no_grad():
        layer.weight.normal_(0, deviation)
        layer.bias.zero_()
    x = rand(256, 64)
    model = quantized(export, layer, x)
    (found,) = lower(model, (x,)).run(x)
    expected = layer(x)
    assert 10 * torch.log10(expected.square().mean() / (found - expected).square().mean()) > 36
