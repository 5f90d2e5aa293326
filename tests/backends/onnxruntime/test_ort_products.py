"""Products of integers whose result is float: which kernels run, and every bit of what they give, from raw integers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk.backends.onnxruntime import SessionSettings, export_onnx, load_onnx, lower

f32 = np.float32
OPS = torch.ops.quantized_decomposed
SX, ZX = 0.0373, 117
TINY = 1.1920929e-07  # float32's epsilon, the smallest scale that torch chooses


def static(x):
    """Static uint8."""
    qparams = (SX, ZX, 0, 255, torch.uint8)
    return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *qparams), *qparams)


def static_signed(x):
    """Static int8: the same real numbers."""
    qparams = (SX, ZX - 128, -128, 127, torch.int8)
    return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *qparams), *qparams)


def dynamic(x, low=0, high=255, dtype=torch.uint8, choose=OPS.choose_qparams.tensor):
    """One range for the tensor."""
    scale, zero_point = choose(x, low, high, TINY, dtype)
    codes = OPS.quantize_per_tensor.tensor(x, scale, zero_point, low, high, dtype)
    return OPS.dequantize_per_tensor.tensor(codes, scale, zero_point, low, high, dtype)


def dynamic_signed(x):
    return dynamic(x, -128, 127, torch.int8)


def dynamic_seven_bits(x):
    return dynamic(x, 0, 127)


def dynamic_symmetric(x):
    return dynamic(x, -127, 127, torch.int8, OPS.choose_qparams_symmetric.tensor)


def token(x, choose=OPS.choose_qparams_per_token_asymmetric, low=-128):
    """One range for each row."""
    scale, zero_point = choose(x, torch.int8)
    codes = OPS.quantize_per_token(x, scale, zero_point, low, 127, torch.int8)
    return OPS.dequantize_per_token(codes, scale, zero_point, low, 127, torch.int8, torch.float32)


def token_symmetric(x):
    return token(x, OPS.choose_qparams_per_token, -127)


class Product(nn.Module):
    """A linear, addmm, matmul or convolution by int8 codes, whose result stays float."""

    def __init__(self, quantize, kind="linear", shape=(24, 32), bias=True, per_channel=True):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.quantize, self.kind = quantize, kind
        self.register_buffer("codes", torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8))
        outputs = shape[0]
        scale = torch.rand(outputs, generator=generator) * 0.02 + 0.01
        self.scale_of_all = None if per_channel else 0.0123
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(outputs, dtype=torch.int64))
        self.register_buffer("bias", torch.randn(outputs, generator=generator) if bias else None)
        if kind in {"addmm", "matmul"}:
            self.codes = self.codes.t().contiguous()

    def weight(self):
        if self.scale_of_all is not None:
            return OPS.dequantize_per_tensor(self.codes, self.scale_of_all, 0, -127, 127, torch.int8)
        axis = 1 if self.kind in {"addmm", "matmul"} else 0
        return OPS.dequantize_per_channel(self.codes, self.scale, self.zero_point, axis, -127, 127, torch.int8)

    def forward(self, x):
        x = self.quantize(x)
        if self.kind == "addmm":
            return torch.addmm(self.bias, x, self.weight())
        if self.kind == "matmul":
            return torch.matmul(x, self.weight())
        if self.kind == "linear":
            return F.linear(x, self.weight(), self.bias)
        return (F.conv1d if self.codes.dim() == 3 else F.conv2d)(x, self.weight(), self.bias, stride=2, padding=1)


def scales_of(model):
    return f32(model.scale_of_all) if model.scale_of_all is not None else model.scale.numpy()


def kernels_of(program):
    return [kernel.name for kernel in program.kernels()]


def codes_like(shape):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))


def example(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("per_channel", [True, False], ids=["channels", "tensor"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("shape", [(5, 32), (2, 3, 32), (1, 1, 1, 32), (32,)], ids=str)
def test_a_static_product_is_the_sum_by_the_product_of_the_scales(shape, bias, per_channel, export):
    model, x = Product(static, bias=bias, per_channel=per_channel), torch.zeros(shape)
    program = lower(export(model, x), (x,), integer_io=True)
    assert kernels_of(program) == ["MatMulIntegerToFloat"]
    codes = codes_like(shape)
    sums = (codes.numpy().astype(np.int64) - ZX) @ model.codes.numpy().astype(np.int64).T
    expected = sums.astype(f32) * (f32(SX) * scales_of(model)).astype(f32)
    if bias:
        expected = expected + model.bias.numpy()
    assert np.array_equal(program.run(codes)[0].numpy(), expected)


@pytest.mark.parametrize("kind", ["addmm", "matmul"])
def test_products_by_a_matrix_are_the_same_kernel(kind, export):
    model, x = Product(static, kind), torch.zeros(5, 32)
    program = lower(export(model, x), (x,), integer_io=True)
    assert kernels_of(program) == ["MatMulIntegerToFloat"]
    codes = codes_like((5, 32))
    sums = (codes.numpy().astype(np.int64) - ZX) @ model.codes.numpy().astype(np.int64)
    expected = sums.astype(f32) * (f32(SX) * model.scale.numpy()) + (model.bias.numpy() if kind == "addmm" else 0)
    assert np.array_equal(program.run(codes)[0].numpy(), expected)


def test_signed_activations_give_what_unsigned_ones_give(export):
    x = example(5, 32)
    results = [lower(export(Product(quantize), x), (x,)).run(x)[0] for quantize in (static, static_signed)]
    assert torch.equal(*results)


@pytest.mark.parametrize("shape", [(5, 32), (2, 3, 32)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
def test_a_dynamic_product_is_one_kernel_and_its_bits(shape, bias, export, tmp_path):
    model, x = Product(dynamic, bias=bias), example(*shape)
    export_onnx(export(model, x), (x,), tmp_path / "model.onnx", mode="portable")
    program = load_onnx(tmp_path / "model.onnx")
    assert kernels_of(program) == ["DynamicQuantizeMatMul"]
    low, high = min(f32(x.min()), f32(0)), max(f32(x.max()), f32(0))
    scale = f32(high - low) / f32(255)
    zero_point = np.rint(f32(-low) / scale)
    codes = np.clip(np.rint(x.numpy() / scale) + zero_point, 0, 255).astype(np.int64)
    sums = (codes - int(zero_point)) @ model.codes.numpy().astype(np.int64).T
    expected = sums.astype(f32) * (scale * model.scale.numpy())
    if bias:
        expected = expected + model.bias.numpy()
    assert np.array_equal(program.run(x)[0].numpy(), expected)


INTEGER = {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "ConvInteger"}


@pytest.mark.parametrize("mode", ["ort", "portable"])
@pytest.mark.parametrize("shape", [(5, 32), (2, 3, 32)], ids=str)
@pytest.mark.parametrize(
    "quantize",
    [static, static_signed, dynamic, dynamic_signed, dynamic_seven_bits, dynamic_symmetric, token, token_symmetric],
    ids=lambda function: function.__name__,
)
def test_every_way_to_quantize_multiplies_integers_and_agrees_with_eager(quantize, shape, mode, export, tmp_path):
    # Rows of unequal magnitude tell a scale for each row from one for all.
    model, x = Product(quantize), example(*shape) * torch.logspace(-2, 1, shape[-2])[:, None]
    exported = export(model, x)
    export_onnx(exported, (x,), tmp_path / "model.onnx", mode=mode)
    program = load_onnx(tmp_path / "model.onnx")
    assert INTEGER & set(kernels_of(program))
    assert not {"MatMul", "Gemm"} & set(kernels_of(program))
    actual, expected = program.run(x)[0], exported(x)
    # The sums are exact on both sides; what is left are the roundings of float32, in torch of each product too.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_runtime_does_not_take_a_scale_for_each_row_for_one_of_the_tensor(export):
    # ONNX Runtime 1.32 makes MatMulIntegerToFloat of it, which reads one scale.
    model, x = Product(token_symmetric), example(5, 32) * torch.logspace(-2, 1, 5)[:, None]
    program = lower(export(model, x), (x,))
    assert "MatMulIntegerToFloat" not in kernels_of(program)
    torch.testing.assert_close(program.run(x)[0], model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quantize", [static, dynamic], ids=["static", "dynamic"])
@pytest.mark.parametrize(("weight", "image"), [((8, 4, 3, 3), (2, 4, 7, 6)), ((8, 4, 3), (2, 4, 9))], ids=["2d", "1d"])
def test_a_convolution_with_a_float_result_multiplies_integers(weight, image, quantize, export):
    model, x = Product(quantize, "conv", weight), example(*image)
    exported = export(model, x)
    program = lower(exported, (x,))
    assert "ConvInteger" in kernels_of(program)
    torch.testing.assert_close(program.run(x)[0], exported(x), rtol=1e-5, atol=1e-5)


def test_the_sums_of_a_convolution_are_exact(export):
    model, x = Product(static, "conv", (8, 4, 3, 3), bias=False), torch.zeros(2, 4, 7, 6)
    program = lower(export(model, x), (x,), integer_io=True)
    codes = codes_like(x.shape)
    centred = codes.double() - ZX
    sums = F.conv2d(centred, model.codes.double(), stride=2, padding=1).numpy()
    scale = (f32(SX) * model.scale.numpy()).astype(f32)
    assert np.array_equal(program.run(codes)[0].numpy(), sums.astype(f32) * scale[:, None, None])


def test_a_grouped_convolution_with_a_float_result_stays_float(export):
    class Depthwise(Product):
        def forward(self, x):
            return F.conv2d(self.quantize(x), self.weight(), self.bias, groups=8)

    model, x = Depthwise(static, "conv", (8, 1, 3, 3)), example(1, 8, 6, 6)
    program = lower(export(model, x), (x,))
    assert "Conv" in program.delegation().non_delegated
    torch.testing.assert_close(program.run(x)[0], model(x), rtol=1e-5, atol=1e-5)


def test_products_run_in_an_unoptimized_session_too(export):
    x = example(5, 32)
    for quantize in (static, dynamic, token):
        model = export(Product(quantize), x)
        program = lower(model, (x,), settings=SessionSettings(optimize=False))
        torch.testing.assert_close(program.run(x)[0], model(x), rtol=1e-5, atol=1e-4)


def test_products_of_a_bfloat16_model_multiply_integers(export):
    class Mixed(Product):
        def forward(self, x):
            scale, zero_point = 0.0373, 117
            codes = OPS.quantize_per_tensor(x.to(torch.bfloat16), scale, zero_point, 0, 255, torch.uint8)
            real = OPS.dequantize_per_tensor(codes, scale, zero_point, 0, 255, torch.uint8, out_dtype=torch.bfloat16)
            weight = OPS.dequantize_per_channel(
                self.codes, self.scale, self.zero_point, 0, -127, 127, torch.int8, out_dtype=torch.bfloat16
            )
            return F.linear(real, weight, self.bias.to(torch.bfloat16)).float()

    model, x = Mixed(static), example(5, 32)
    program = lower(export(model, x), (x,))
    assert "MatMulIntegerToFloat" in kernels_of(program)
    expected = model(x)
    torch.testing.assert_close(program.run(x)[0], expected, rtol=0, atol=float(expected.abs().max()) * 2**-6)


def test_a_weight_that_the_model_quantizes_itself_is_stored_as_integers(export):
    class Unfolded(Product):
        def __init__(self, quantize):
            super().__init__(quantize)
            self.float_weight = nn.Parameter(torch.randn(24, 32))

        def weight(self):
            qparams = (self.scale, self.zero_point, 0, -127, 127, torch.int8)
            return OPS.dequantize_per_channel(OPS.quantize_per_channel(self.float_weight, *qparams), *qparams)

    model, x = Unfolded(static), example(5, 32)
    program = lower(export(model, x), (x,))
    assert kernels_of(program) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    assert program.size < 24 * 32 * 4
    torch.testing.assert_close(program.run(x)[0], model(x), rtol=1e-5, atol=1e-5)
