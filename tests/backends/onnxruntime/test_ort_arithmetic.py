"""The profile, bit for bit: each family's kernel against its formula in numpy, on full sweeps and constructed ties."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import LoweringError
from quantizer_sdk.backends.onnxruntime import lower
from quantizer_sdk.backends.onnxruntime.profile import PROFILE
from quantizer_sdk.profile import Family, Multiplier, ZeroPointOrder

f32 = np.float32
OPS = torch.ops.quantized_decomposed
# (scales of operands and result, zero points of the same)
GENERIC = {"generic": ((0.0373, 0.0211, 0.0457), (17, 200, 91))}
DYADIC = {
    "dyadic-even": ((0.25, 0.125, 0.5), (130, 118, 126)),
    "dyadic-odd": ((0.25, 0.125, 0.5), (131, 117, 127)),
}
QPARAMS = {**GENERIC, **DYADIC}
# As above, with ties in products of codes.
PRODUCTS = {
    **GENERIC,
    "dyadic-even": ((0.25, 0.125, 8.0), (130, 118, 126)),
    "dyadic-odd": ((0.25, 0.125, 8.0), (1, 3, 27)),
}
EACH = pytest.mark.parametrize("name", QPARAMS)


class Quantized(nn.Module):
    """An op between quantize-dequantize pairs; the last qparams are the result's."""

    def __init__(self, run, qparams):
        super().__init__()
        self.run, self.qparams = run, qparams

    def forward(self, *inputs):
        *operands, result = self.qparams
        return round_trip(self.run(*[round_trip(x, q) for x, q in zip(inputs, operands, strict=True)]), result)


class Gemm(nn.Module):
    """A linear by int8 codes with an int32 bias."""

    def __init__(self, weight, bias, scale, weight_scale):
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(weight))
        self.register_buffer("bias", torch.from_numpy(bias))
        self.register_buffer("scale", torch.from_numpy(weight_scale))
        self.register_buffer("bias_scale", torch.from_numpy(f32(scale) * weight_scale))
        self.register_buffer("zero_point", torch.zeros(len(weight), dtype=torch.int64))

    def forward(self, x):
        weight = OPS.dequantize_per_channel(self.weight, self.scale, self.zero_point, 0, -127, 127, torch.int8)
        ends = (-(2**31), 2**31 - 1, torch.int32)
        bias = OPS.dequantize_per_channel(self.bias, self.bias_scale, self.zero_point, 0, *ends)
        if weight.dim() == 2:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias)


def round_trip(x, qparams):
    arguments = (*qparams, 0, 255, torch.uint8)
    return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *arguments), *arguments)


def run_kernel(run, qparams, kernel, *codes):
    """Lower an op to take and return codes, see that the kernel is the one, and run it."""
    inputs = tuple(torch.zeros(array.shape) for array in codes)
    model = torch.export.export(Quantized(run, qparams).eval(), inputs).module()
    program = lower(model, inputs, integer_io=True)
    assert kernel in {entry.name for entry in program.kernels()}
    assert all(entry.integer for entry in program.kernels())
    return program.run(*map(torch.from_numpy, codes))[0].numpy()


def to_codes(rounded):
    return np.clip(rounded, 0, 255).astype(np.uint8)


def fma(a, b, c):
    """One rounding: 64 bits of mantissa hold every product and nearly every sum of these exactly."""
    return (np.asarray(a, np.longdouble) * np.asarray(b, np.longdouble) + np.asarray(c, np.longdouble)).astype(f32)


def exact_ties(r):
    return int((np.abs(r - np.floor(r)) == 0.5).sum())


def all_pairs():
    return np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")


@EACH
def test_add_rounds_a_fused_sum_that_holds_the_zero_point(name):
    (sa, sb, sy), (za, zb, zy) = [[f32(s) for s in QPARAMS[name][0]], QPARAMS[name][1]]
    a, b = all_pairs()
    qparams = [(float(s), z) for s, z in zip((sa, sb, sy), (za, zb, zy), strict=True)]
    actual = run_kernel(torch.add, qparams, "QLinearAdd", a, b)
    ratio_a, ratio_b = f32(sa / sy), f32(sb / sy)
    constant = f32(f32(zy) - fma(ratio_a, za, f32(ratio_b * f32(zb))))
    real = fma(a, ratio_a, fma(b, ratio_b, constant))
    assert np.array_equal(actual, to_codes(np.rint(real)))
    if name in DYADIC:
        r = ((a.astype(float) - za) * float(sa) + (b.astype(float) - zb) * float(sb)) / float(sy)
        after = to_codes(np.rint(r) + zy)
        assert exact_ties(r) > 1000
        assert np.array_equal(actual, after) == (zy % 2 == 0)  # only an odd zero point tells before from after


@pytest.mark.parametrize("name", PRODUCTS)
def test_mul_rounds_a_fused_product_that_holds_the_zero_point(name):
    (sa, sb, sy), (za, zb, zy) = [[f32(s) for s in PRODUCTS[name][0]], PRODUCTS[name][1]]
    a, b = all_pairs()
    qparams = [(float(s), z) for s, z in zip((sa, sb, sy), (za, zb, zy), strict=True)]
    actual = run_kernel(torch.mul, qparams, "QLinearMul", a, b)
    product = (a.astype(f32) - za) * (b.astype(f32) - zb)
    assert np.array_equal(actual, to_codes(np.rint(fma(product, f32(f32(sa * sb) / sy), f32(zy)))))
    if name in DYADIC:
        r = product.astype(float) * float(sa) * float(sb) / float(sy)
        assert exact_ties(r) > 100
        assert np.array_equal(actual, to_codes(np.rint(r) + zy)) == (zy % 2 == 0)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_square_rounds_as_any_product(name):
    (sa, _, sy), (za, _, zy) = [[f32(s) for s in PRODUCTS[name][0]], PRODUCTS[name][1]]
    codes = np.arange(256, dtype=np.uint8)
    actual = run_kernel(lambda x: x * x, [(float(sa), za), (float(sy), zy)], "QLinearMul", codes)
    product = (codes.astype(f32) - za) ** 2
    assert np.array_equal(actual, to_codes(np.rint(fma(product, f32(f32(sa * sa) / sy), f32(zy)))))


@pytest.mark.parametrize("kernel", ["QGemm", "QLinearConv"])
@EACH
def test_gemms_scale_the_int32_sum_in_float32_and_round_half_to_even(name, kernel):
    (sx, sw, sy), (zx, _, zy) = [[f32(s) for s in QPARAMS[name][0]], QPARAMS[name][1]]
    generator = np.random.default_rng(0)
    dyadic = name in DYADIC
    reach = 3 if dyadic else 127
    weight = generator.integers(-reach, reach + 1, (32, 6)).astype(np.int8)
    bias = generator.integers(-50, 51, 32).astype(np.int32)
    x = generator.integers(0, 256, (64, 6)).astype(np.uint8)
    scales = np.full(32, sw) if dyadic else generator.uniform(0.01, 0.03, 32).astype(f32)
    sums = (x.astype(np.int64) - zx) @ weight.astype(np.int64).T + bias
    multiplier = (f32(sx) * scales).astype(f32) / f32(sy)
    codes, kernel_weight = x, weight
    if kernel == "QLinearConv":
        codes = np.ascontiguousarray(x.reshape(1, 8, 8, 6).transpose(0, 3, 1, 2))
        kernel_weight = weight.reshape(32, 6, 1, 1)
    gemm = Gemm(kernel_weight, bias, sx, scales)
    actual = run_kernel(gemm, [(float(sx), zx), (float(sy), zy)], kernel, codes)
    if kernel == "QLinearConv":
        actual = actual.transpose(0, 2, 3, 1).reshape(64, 32)
    real = sums.astype(f32) * multiplier
    assert np.array_equal(actual, to_codes(np.rint(real) + zy))
    if dyadic:
        assert exact_ties(real) > 50
        before = to_codes(np.rint(real + f32(zy)))
        assert np.array_equal(actual, before) == (zy % 2 == 0)


@EACH
def test_matmul_of_activations_rounds_as_gemms_do(name):
    (sa, sb, sy), (za, zb, zy) = [[f32(s) for s in QPARAMS[name][0]], QPARAMS[name][1]]
    generator = np.random.default_rng(0)
    a = np.clip(za + generator.integers(-5, 6, (2, 16, 7)), 0, 255).astype(np.uint8)
    b = np.clip(zb + generator.integers(-5, 6, (2, 7, 16)), 0, 255).astype(np.uint8)
    qparams = [(float(s), z) for s, z in zip((sa, sb, sy), (za, zb, zy), strict=True)]
    actual = run_kernel(torch.matmul, qparams, "QLinearMatMul", a, b)
    real = np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb).astype(f32) * f32(f32(sa * sb) / sy)
    assert np.array_equal(actual, to_codes(np.rint(real) + zy))
    assert name not in DYADIC or exact_ties(real) > 10


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (1, 5, 7, 3)])
@EACH
def test_global_average_pool_scales_the_sum_and_rounds_before_the_zero_point(name, shape):
    (sx, _, sy), (zx, _, zy) = [[f32(s) for s in QPARAMS[name][0]], QPARAMS[name][1]]
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    pool = nn.AdaptiveAvgPool2d(1)
    actual = run_kernel(pool, [(float(sx), zx), (float(sy), zy)], "QLinearGlobalAveragePool", x)
    sums = (x.astype(np.int64) - zx).sum((2, 3), keepdims=True)
    count = f32(shape[2] * shape[3])
    assert np.array_equal(actual, to_codes(np.rint(sums.astype(f32) * f32(sx / f32(sy * count))) + zy))


@pytest.mark.parametrize("counted", [True, False])
@EACH
def test_average_pool_divides_the_float_mean_and_rounds_with_the_zero_point(name, counted):
    (sx, _, sy), (zx, _, zy) = [[f32(s) for s in QPARAMS[name][0]], QPARAMS[name][1]]
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 9, 9)).astype(np.uint8)
    pool = nn.AvgPool2d(2, padding=1, count_include_pad=counted)
    actual = run_kernel(pool, [(float(sx), zx), (float(sy), zy)], "QLinearAveragePool", x)
    mean = pool(torch.from_numpy((x.astype(f32) - f32(zx)) * sx)).numpy()
    assert np.array_equal(actual, to_codes(np.rint((mean / sy).astype(f32) + f32(zy))))
    if name == "dyadic-odd":
        assert not np.array_equal(actual, to_codes(np.rint(mean / sy) + zy))


TABLES = {
    "sigmoid-generic": (torch.ops.aten.sigmoid.default, {}, ((0.0373, 117), (0.0057, 31))),
    "sigmoid-unit": (torch.ops.aten.sigmoid.default, {}, ((0.05, 128), (1 / 256, 0))),
    "leaky_relu-generic": (torch.ops.aten.leaky_relu.default, {"negative_slope": 0.07}, ((0.0373, 117), (0.02, 31))),
    "leaky_relu-ties": (torch.ops.aten.leaky_relu.default, {"negative_slope": 0.125}, ((0.25, 131), (0.5, 127))),
}


@pytest.mark.parametrize(("op", "options", "qparams"), TABLES.values(), ids=TABLES)
def test_tables_give_all_256_codes_of_the_profile(op, options, qparams):
    qparams = [(float(f32(scale)), zero_point) for scale, zero_point in qparams]
    kernel = "QLinearLeakyRelu" if options else "QLinearSigmoid"
    codes = np.arange(256, dtype=np.uint8)
    actual = run_kernel(lambda x: op(x, **options), qparams, kernel, codes)
    (sx, zx), (sy, zy) = qparams
    expected = PROFILE.tables[op](torch.arange(256), sx, zx, sy, zy, **options)
    assert np.array_equal(actual, to_codes(expected.numpy()))
    assert len(np.unique(actual)) > 50


def test_every_table_of_the_profile_is_swept():
    assert {op for op, _, _ in TABLES.values()} == set(PROFILE.tables)


@pytest.mark.parametrize("length", [3, 50])
def test_softmax_is_exact_at_a_scale_of_one_over_256_and_at_no_other(length):
    scale, zero_point = 0.0373, 17
    codes = np.random.default_rng(0).integers(0, 256, (400, length)).astype(np.uint8)
    real = (codes.astype(float) - zero_point) * float(f32(scale))
    exact = np.exp(real) / np.exp(real).sum(-1, keepdims=True)
    off = {}
    for out_scale in (1 / 256, 1 / 255):
        qparams = [(float(f32(scale)), zero_point), (float(f32(out_scale)), 0)]
        actual = run_kernel(lambda x: x.softmax(-1), qparams, "QLinearSoftmax", codes)
        off[out_scale] = int((actual != to_codes(np.rint(exact / float(f32(out_scale))))).sum())
    assert off[1 / 256] == 0
    assert off[1 / 255] > 100


def test_global_average_pool_refuses_ratios_outside_the_profiles_interval():
    low, high = PROFILE.requantization
    x = np.full((1, 1, 2, 2), 9, np.uint8)
    for ratio in (low / 2, high):
        qparams = [(1.0, 0), (float(Fraction(1) / Fraction(ratio) / 4), 0)]
        with pytest.raises(LoweringError, match="out of computation range"):
            run_kernel(nn.AdaptiveAvgPool2d(1), qparams, "QLinearGlobalAveragePool", x)


def test_the_profile_says_what_was_shown_here():
    before = {family for family, entry in PROFILE.arithmetic.items() if entry.zero_point is ZeroPointOrder.BEFORE}
    assert before == {Family.ADD, Family.MUL, Family.SQUARE, Family.POOL}
    fused = {family for family, entry in PROFILE.arithmetic.items() if entry.multiplier is Multiplier.FUSED}
    assert fused == {Family.ADD, Family.MUL, Family.SQUARE}
