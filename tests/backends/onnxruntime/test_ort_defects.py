"""What goes wrong with other exporters' files, each in a session with ONNX Runtime's default options."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from quantizer_sdk.backends.onnxruntime import export_onnx, inspect_onnx, load_onnx
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config

OPS = torch.ops.quantized_decomposed
MODES = pytest.mark.parametrize("mode", ["ort", "portable"])


def round_trip(x, scale=0.03, zero_point=-3, low=-128, high=127, dtype=torch.int8):
    qparams = (scale, zero_point, low, high, dtype)
    return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *qparams), *qparams)


class Apply(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *inputs):
        return self.run(*inputs)


class Weighted(nn.Module):
    """Two int8 convolutions, an activation behind the first, and what `end` makes of both results."""

    def __init__(self, end, activation=torch.relu):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.end, self.activation = end, activation
        for name in ("first", "second"):
            self.register_buffer(name, torch.randint(-127, 128, (4, 4, 3, 3), generator=generator, dtype=torch.int8))
        self.bias = nn.Parameter(torch.randn(4, generator=generator))
        self.register_buffer("scale", torch.rand(4, generator=generator) * 0.004 + 0.001)
        self.register_buffer("zero_point", torch.zeros(4, dtype=torch.int64))

    def convolve(self, x, codes):
        weight = OPS.dequantize_per_channel(codes, self.scale, self.zero_point, 0, -127, 127, torch.int8)
        return F.conv2d(x, weight, self.bias, padding=1)

    def forward(self, x):
        y = round_trip(self.activation(self.convolve(round_trip(x), self.first)), 0.02, -128)
        return self.end(y, round_trip(self.convolve(y, self.second), 0.04, 5))


def quantized(module, quantizer, *inputs, dynamic_shapes=None):
    exported = torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic_shapes).module()
    prepared = prepare_pt2e(exported, quantizer)
    calibrate(prepared, [inputs])
    return convert_pt2e(prepared)


def run_by_default(path, *inputs):
    """Run as somebody does who knows nothing of session options."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return [
        torch.from_numpy(result) for result in session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))
    ]


def kernels(path):
    return Counter(kernel.name for kernel in load_onnx(path).kernels())


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def codes_apart(actual, expected, scale):
    return round(float((actual - expected).abs().max()) / scale)


@MODES
def test_residuals_of_int8_activations_do_not_fall_back_to_float(mode, export, tmp_path):
    def residual(y, z):
        return round_trip(y + z, 0.05, 1)

    model, x = Weighted(residual), image(1, 4, 8, 8)
    exported = export(model, x)
    export_onnx(exported, (x,), tmp_path / "m.onnx", mode=mode)
    assert inspect_onnx(tmp_path / "m.onnx").to_dict()["totals"]["float"] == 0
    assert kernels(tmp_path / "m.onnx")["QLinearAdd"] == 1
    assert codes_apart(run_by_default(tmp_path / "m.onnx", x)[0], exported(x), 0.05) <= 1


MOVES = {
    "reshape": lambda x: x.reshape(2, -1),
    "transpose": lambda x: x.transpose(1, 2),
    "slice": lambda x: x[:, 1:],
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(0),
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", MOVES)
def test_moves_behind_signed_codes_load(name, bits, export, tmp_path):
    # From opset 21 on, sessions with int8 codes failed to load: "output_dtype INT8 does not match y_zero_point".
    wide = {"low": -32768, "high": 32767, "dtype": torch.int16, "scale": 2.0**-12}
    run = Apply(
        lambda x: MOVES[name](round_trip(x)) + round_trip(x, **wide).sum() if bits == 16 else MOVES[name](round_trip(x))
    )
    x = image(2, 4, 6, 6)
    export_onnx(export(run, x), (x,), tmp_path / "m.onnx")
    torch.testing.assert_close(
        run_by_default(tmp_path / "m.onnx", x)[0], run(x), rtol=0, atol=1e-2 if bits == 16 else 0.031
    )


def test_a_narrow_range_is_kept_without_a_float_clip(export, tmp_path):
    model = Weighted(lambda y, z: round_trip(z, 0.06, 64, 0, 127, torch.uint8))
    x = image(1, 4, 8, 8) * 3
    exported = export(model, x)
    export_onnx(exported, (x,), tmp_path / "m.onnx")
    actual = run_by_default(tmp_path / "m.onnx", x)[0]
    codes = torch.round(actual / 0.06) + 64
    assert (int(codes.min()), int(codes.max())) == (0, 127)
    assert kernels(tmp_path / "m.onnx")["QLinearConv"] == 2
    assert codes_apart(actual, exported(x), 0.06) <= 1


@pytest.mark.parametrize("move", [None, *MOVES])
def test_two_quantizes_in_a_row_keep_both_roundings(move, export, tmp_path):
    coarse, fine = (0.5, 0), (0.01, 0)
    between = (lambda x: x) if move is None else MOVES[move]
    model = Apply(lambda x: round_trip(between(round_trip(torch.exp(x) - 1, *coarse)), *fine))
    x = image(2, 4, 6, 6)
    export_onnx(export(model, x), (x,), tmp_path / "m.onnx")
    assert codes_apart(run_by_default(tmp_path / "m.onnx", x)[0], model(x), 0.01) == 0


def test_a_float_weight_between_quantizes_stays_float_under_the_recommended_options(export, tmp_path):
    layer = nn.Conv2d(4, 4, 3)
    model = Apply(lambda x: round_trip(layer(round_trip(x)), 0.02, 0))
    x = image(1, 4, 8, 8)
    export_onnx(export(model, x), (x,), tmp_path / "m.onnx")
    assert kernels(tmp_path / "m.onnx")["QLinearConv"] == 0
    assert codes_apart(load_onnx(tmp_path / "m.onnx").run(x)[0], model(x), 0.02) <= 1


ACTIVATIONS = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "clamp": lambda x: x.clamp(max=0.9),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_that_the_range_does_not_imply_leaves_the_convolution_integer(name, export, tmp_path):
    model = Weighted(lambda y, z: z, ACTIVATIONS[name])
    x = image(1, 4, 8, 8)
    export_onnx(export(model, x), (x,), tmp_path / "m.onnx")
    assert inspect_onnx(tmp_path / "m.onnx").to_dict()["totals"]["float"] == 0
    assert codes_apart(run_by_default(tmp_path / "m.onnx", x)[0], model(x), 0.04) <= 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_between_equal_qparams_clips_codes(name, export, tmp_path):
    model = Apply(lambda x: round_trip(ACTIVATIONS[name](round_trip(x))))
    x = image(2, 4, 6, 6)
    export_onnx(export(model, x), (x,), tmp_path / "m.onnx")
    assert kernels(tmp_path / "m.onnx") == {"QuantizeLinear": 1, "Clip": 1, "DequantizeLinear": 1}
    torch.testing.assert_close(run_by_default(tmp_path / "m.onnx", x)[0], model(x), rtol=0, atol=1e-6)


class Small(nn.Module):
    """A network with all that mobile networks have: depthwise, residual, squeeze, flatten, dropout."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.depth = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.point = nn.Conv2d(8, 8, 1)
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.point(self.depth(x))
        return self.head(torch.flatten(x.mean((2, 3)), 1))


BATCH = ({0: torch.export.Dim("batch", max=8)},)


@pytest.mark.parametrize("quantizer", [XNNPACKQuantizer, lambda: X86Quantizer("onnxruntime")], ids=["xnnpack", "x86"])
def test_models_of_each_quantizer_run_on_integers_at_any_batch(quantizer, tmp_path):
    x, path = image(2, 3, 16, 16), tmp_path / "m.onnx"
    model = quantized(Small(), quantizer(), x, dynamic_shapes=BATCH)
    for mode in ("ort", "portable"):
        export_onnx(model, (x,), path, mode=mode, dynamic_shapes=BATCH)
        found = kernels(path)
        assert found["QLinearConv"] == 3
        assert not {"Conv", "FusedConv", "Gemm", "MatMul"} & set(found)
        for batch in (1, 5):
            images = image(batch, 3, 16, 16)
            torch.testing.assert_close(run_by_default(path, images)[0], model(images), rtol=0, atol=0.03)


def test_dynamic_models_of_xnnpack_multiply_integers_with_a_range_for_each_token(tmp_path):
    x = image(2, 5, 16)
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    module = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
    model = quantized(module, XNNPACKQuantizer().set_global(config), x)
    export_onnx(model, (x,), tmp_path / "m.onnx", mode="portable")
    assert kernels(tmp_path / "m.onnx")["MatMulInteger"] == 2
    torch.testing.assert_close(run_by_default(tmp_path / "m.onnx", x)[0], model(x), rtol=1e-5, atol=1e-5)


ENCODER = ({0: torch.export.Dim("batch", max=8), 1: torch.export.Dim("tokens", max=32)},)


@pytest.mark.parametrize("config", [{}, {"is_dynamic": True}, {"is_dynamic": True, "is_per_token": True}], ids=str)
def test_an_encoder_layer_multiplies_integers_at_every_shape(config, tmp_path):
    module = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    x, path = image(2, 7, 32), tmp_path / "m.onnx"
    quantizer = X86Quantizer("onnxruntime").set_global(get_default_x86_quantization_config(**config))
    model = quantized(module, quantizer, x, dynamic_shapes=ENCODER)
    products = ("QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger")
    for mode in ("ort", "portable"):
        export_onnx(model, (x,), path, mode=mode, dynamic_shapes=ENCODER)
        assert sum(kernels(path)[name] for name in products) >= 4
        for shape in ((2, 7, 32), (1, 1, 32), (5, 20, 32)):
            y = image(*shape)
            torch.testing.assert_close(run_by_default(path, y)[0], model(y), rtol=0, atol=0.05)


def test_a_sum_before_a_norm_is_no_slow_skip_layer_normalization(export, tmp_path):
    norm = nn.LayerNorm(32)
    x = image(2, 7, 32)
    export_onnx(export(Apply(lambda x, y: norm(x + y)), x, x), (x, x), tmp_path / "m.onnx")
    assert kernels(tmp_path / "m.onnx") == {"Add": 1, "Reshape": 1, "LayerNormalization": 1}


def test_weights_are_stored_as_integers_once(tmp_path):
    x = image(2, 3, 16, 16)
    export_onnx(quantized(Small(), X86Quantizer("onnxruntime"), x), (x,), tmp_path / "m.onnx")
    stored = onnx.load(tmp_path / "m.onnx").graph.initializer
    weights = [tensor for tensor in stored if len(tensor.dims) in {2, 4}]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}
    assert sum(np.prod(tensor.dims) for tensor in weights) == 3 * 8 * 9 + 8 * 9 + 8 * 8 + 8 * 5


def test_quantization_aware_trained_models_export(tmp_path):
    x = image(4, 3, 16, 16)
    exported = torch.export.export(Small().train(), (x,)).module()
    config = get_default_x86_quantization_config(is_qat=True)
    prepared = prepare_qat_pt2e(exported, X86Quantizer("onnxruntime").set_global(config))
    for _ in range(2):
        prepared(x).sum().backward()
    model = convert_pt2e(prepared.eval())
    export_onnx(model, (x,), tmp_path / "m.onnx")
    assert kernels(tmp_path / "m.onnx")["QLinearConv"] == 3
    torch.testing.assert_close(run_by_default(tmp_path / "m.onnx", x)[0], model(x), rtol=0, atol=0.05)
