"""The profile, bit for bit: each family's kernel against its formula in numpy, on full sweeps and constructed ties."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk.backend import strip_boundary
from quantizer_sdk.backends.onednn import lower_eager
from quantizer_sdk.backends.onednn.profile import PROFILE
from quantizer_sdk.conformance import run_oracle
from quantizer_sdk.conformance.emulator import emulate
from quantizer_sdk.conformance.verdict import judge
from quantizer_sdk.profile import Family, Multiplier, ZeroPointOrder

f32 = np.float32
OPS = torch.ops.quantized_decomposed
# (scales of operands and result, zero points of the same)
GENERIC = {"generic": ((0.0373, 0.0211, 0.0457), (17, 200, 91)), "other": ((0.0123, 0.0511, 0.0357), (170, 20, 190))}
DYADIC = {
    "dyadic-even": ((0.25, 0.125, 0.5), (130, 118, 126)),
    "dyadic-odd": ((0.25, 0.125, 0.5), (131, 117, 127)),
}
# Ratios of scales next to whole numbers: every rounding decides some codes.
NEAR = {
    "near-ties": ((0.046685006469488144, 0.015561668202280998, 0.06224667280912399), (136, 136, 136)),
    "near-ties-odd": ((0.0311233364, 0.015561668202280998, 0.06224667280912399), (17, 201, 133)),
}
QPARAMS = {**GENERIC, **DYADIC, **NEAR}
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
    """A linear or a convolution by int8 codes with a float bias."""

    def __init__(self, weight, bias, scale, **options):
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(weight))
        self.register_buffer("bias", None if bias is None else torch.from_numpy(bias))
        self.register_buffer("scale", torch.from_numpy(scale))
        self.register_buffer("zero_point", torch.zeros(len(weight), dtype=torch.int64))
        self.options = options

    def forward(self, x):
        weight = OPS.dequantize_per_channel(self.weight, self.scale, self.zero_point, 0, -127, 127, torch.int8)
        if weight.dim() == 2:
            return F.linear(x, weight, self.bias)
        convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()]
        return convolve(x, weight, self.bias, **self.options)


def round_trip(x, qparams):
    arguments = (*qparams, 0, 255, torch.uint8)
    return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *arguments), *arguments)


def run_kernel(run, qparams, kernel, *codes):
    """Lower an op to take and return codes, see that the kernel is the one, run it, and hold it to emulator and δ."""
    inputs = tuple(torch.zeros(array.shape) for array in codes)
    model = torch.export.export(Quantized(run, qparams).eval(), inputs).module()
    program = lower_eager(model, inputs, integer_io=True)
    assert kernel in {entry.name for entry in program.kernels()}
    assert all(entry.integer or entry.moves for entry in program.kernels())
    tensors = [torch.from_numpy(array) for array in codes]
    found = program.run(*tensors)[0]
    (site,) = run_oracle(model, tensors, PROFILE).outputs
    assert torch.equal(emulate(site, PROFILE), found.to(torch.int64))
    assert judge(found, site.requantized, site.kernel_delta).outside == 0
    return found.numpy()


def to_codes(rounded):
    return np.clip(rounded, 0, 255).astype(np.uint8)


def fma(a, b, c):
    """One rounding: 64 bits of mantissa hold every product and nearly every sum of these exactly."""
    return (np.asarray(a, np.longdouble) * np.asarray(b, np.longdouble) + np.asarray(c, np.longdouble)).astype(f32)


def exact_ties(r):
    return int((np.abs(r - np.floor(r)) == 0.5).sum())


def all_pairs():
    return np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")


def requantized(sums, sx, scales, bias, sy, zy):
    """((f(acc)·sx)·sw + bias)·(1/sy) + zy, rounded at each step."""
    real = sums.astype(f32) * f32(sx) * scales
    real = real if bias is None else real + bias
    return to_codes(np.rint(real * (f32(1) / f32(sy)) + f32(zy)))


def draw(name, shape, seed=0):
    """(codes, weight, bias, scales) of a gemm: small weights on one dyadic scale, or any on scales of their own."""
    generator = np.random.default_rng(seed)
    outputs = shape[0]
    if name in DYADIC:
        weight = generator.integers(-3, 4, shape).astype(np.int8)
        return weight, (generator.integers(-40, 41, outputs) / 32).astype(f32), np.full(outputs, f32(0.125))
    weight = generator.integers(-127, 128, shape).astype(np.int8)
    scales = generator.uniform(0.001, 0.003, outputs).astype(f32)
    return weight, generator.normal(0, 0.5, outputs).astype(f32), scales


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(33, 64, 32), (700, 64, 32), (3, 5, 7)])  # rows, inputs, outputs
@EACH
def test_linear_dequantizes_its_sum_scale_by_scale_and_adds_the_zero_point_before_rounding(name, shape, biased):
    (sx, _, sy), (zx, _, zy) = QPARAMS[name]
    rows, inputs, outputs = shape
    x = np.random.default_rng(1).integers(0, 256, (rows, inputs)).astype(np.uint8)
    weight, bias, scales = draw(name, (outputs, inputs))
    bias = bias if biased else None
    kernel = "onednn.qlinear_pointwise" if rows == 700 else "aten._int_mm"
    actual = run_kernel(Gemm(weight, bias, scales), [(float(f32(sx)), zx), (float(f32(sy)), zy)], kernel, x)
    sums = (x.astype(np.int64) - zx) @ weight.astype(np.int64).T
    assert np.array_equal(actual, requantized(sums, sx, scales, bias, sy, zy))
    assert len(np.unique(actual)) > 10
    if name in DYADIC and rows > 3:
        real = sums * 0.25 * 0.125 + (0 if bias is None else bias)
        assert exact_ties(real / 0.5) > 50
        after = to_codes(np.rint(real / 0.5) + zy)
        assert np.array_equal(actual, after) == (zy % 2 == 0)


CONVOLUTIONS = {
    "1d": ((32, 16, 5), (2, 16, 40), {"padding": 2}),
    "2d": ((32, 16, 3, 3), (1, 16, 12, 12), {"padding": 1, "stride": 2}),
    "2d-dilated": ((32, 16, 3, 3), (2, 16, 11, 12), {"padding": 2, "dilation": 2}),
    "2d-grouped": ((32, 4, 3, 3), (1, 16, 12, 12), {"groups": 4}),
    "2d-depthwise": ((48, 1, 3, 3), (2, 48, 12, 12), {"padding": 1, "groups": 48}),
    "2d-pointwise": ((32, 16, 1, 1), (1, 16, 12, 12), {}),
    "3d": ((16, 8, 3, 3, 3), (1, 8, 6, 6, 6), {"padding": 1}),
}


@pytest.mark.parametrize("form", CONVOLUTIONS)
@EACH
def test_convolutions_round_as_linear_does(name, form):
    (sx, _, sy), (zx, _, zy) = QPARAMS[name]
    shape, images, options = CONVOLUTIONS[form]
    x = np.random.default_rng(1).integers(0, 256, images).astype(np.uint8)
    weight, bias, scales = draw(name, shape)
    gemm = Gemm(weight, bias, scales, **options)
    actual = run_kernel(gemm, [(float(f32(sx)), zx), (float(f32(sy)), zy)], "onednn.qconv_pointwise", x)
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[len(shape)]
    centred, kernel = torch.from_numpy(x).double() - zx, torch.from_numpy(weight).double()
    sums = np.moveaxis(convolve(centred, kernel, **options).numpy(), 1, -1)
    expected = requantized(sums, sx, scales, bias, sy, zy)
    assert np.array_equal(np.moveaxis(actual, 1, -1), expected)
    assert len(np.unique(actual)) > 20


@pytest.mark.parametrize("side", [256, 100])  # 100 * 100 is no multiple of a vector's length
@pytest.mark.parametrize("kind", ["add", "mul"])
@EACH
def test_sums_and_products_round_as_torchs_own_kernels_on_every_element(name, kind, side):
    (sa, sb, sy), (za, zb, zy) = [[f32(s) for s in QPARAMS[name][0]], QPARAMS[name][1]]
    sy = sy if kind == "add" else f32(sy * 16)
    a, b = (codes[:side, :side].copy() for codes in all_pairs())
    qparams = [(float(s), z) for s, z in zip((sa, sb, sy), (za, zb, zy), strict=True)]
    actual = run_kernel({"add": torch.add, "mul": torch.mul}[kind], qparams, f"quantized.{kind}", a, b)
    inverse = f32(1) / sy
    if kind == "add":
        real = (fma(a, sa, -(sa * f32(za))) + fma(b, sb, -(sb * f32(zb)))) * inverse
    else:
        real = ((a.astype(f32) - za) * (b.astype(f32) - zb)) * (sa * sb * inverse)
    assert np.array_equal(actual, to_codes(np.rint(real) + zy))
    if name in DYADIC and side == 256:
        assert exact_ties(real) > 100


def test_sums_are_the_same_on_several_threads():
    a, b = (torch.from_numpy(np.tile(codes, (3, 1))[:-1]) for codes in all_pairs())
    operands = (a, 0.25, 131, b, 0.125, 117, 0.5, 127, False)
    add = torch.ops.quantizer_sdk_x86.add
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = add(*operands)
        torch.set_num_threads(3)
        together = add(*operands)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)


@EACH
def test_a_square_rounds_as_any_product(name):
    (sa, _, sy), (za, _, zy) = [[f32(s) for s in QPARAMS[name][0]], QPARAMS[name][1]]
    sy = f32(sy * 16)
    codes = np.arange(256, dtype=np.uint8)
    actual = run_kernel(lambda x: x * x, [(float(sa), za), (float(sy), zy)], "quantized.mul", codes)
    real = (codes.astype(f32) - za) ** 2 * (sa * sa * (f32(1) / sy))
    assert np.array_equal(actual, to_codes(np.rint(real) + zy))


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (1, 5, 7, 3)])
@pytest.mark.parametrize("form", ["pool", "mean"])
@EACH
def test_means_scale_the_sum_and_round_before_the_zero_point(name, form, shape):
    (sx, _, sy), (zx, _, zy) = [[f32(s) for s in QPARAMS[name][0]], QPARAMS[name][1]]
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    run = nn.AdaptiveAvgPool2d(1) if form == "pool" else lambda t: t.mean((2, 3), keepdim=True)
    actual = run_kernel(run, [(float(sx), zx), (float(sy), zy)], "quantizer_sdk_x86.mean", x)
    sums = (x.astype(np.int64) - zx).sum((2, 3), keepdims=True)
    count = f32(shape[2] * shape[3])
    assert np.array_equal(actual, to_codes(np.rint(sums.astype(f32) * (sx / (sy * count))) + zy))


FUNCTIONS = {
    "sigmoid": (torch.sigmoid, (0.0373, 117), (0.0057, 31)),
    "tanh": (torch.tanh, (0.02, 128), (0.0078, 127)),
    "gelu": (F.gelu, (0.0373, 117), (0.0257, 31)),
    "silu": (F.silu, (0.0373, 117), (0.0257, 31)),
    "hardswish": (F.hardswish, (0.0373, 117), (0.0257, 31)),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.125), (0.25, 131), (0.5, 127)),
    "relu6": (F.relu6, (0.0373, 117), (0.0257, 31)),
}


@pytest.mark.parametrize(("function", "taken", "given"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_are_tables_of_what_the_graph_gives(function, taken, given):
    codes = torch.arange(256, dtype=torch.uint8)
    model = torch.export.export(Quantized(function, [taken, given]).eval(), (torch.zeros(256),)).module()
    program = lower_eager(model, (torch.zeros(256),), integer_io=True)
    assert [entry.integer for entry in program.kernels()] == [True]
    stripped, _ = strip_boundary(model, (torch.zeros(256),))
    assert torch.equal(program.run(codes)[0], stripped(codes))
    assert len(program.run(codes)[0].unique()) > 50


def test_the_profile_says_what_was_shown_here():
    before = {family for family, entry in PROFILE.arithmetic.items() if entry.zero_point is ZeroPointOrder.BEFORE}
    assert before == {Family.DOT, Family.DOT_ADD, Family.DOT_TABLE}
    of = {m: {f for f, entry in PROFILE.arithmetic.items() if entry.multiplier is m} for m in Multiplier}
    assert of[Multiplier.RECIPROCAL] == {*before, Family.POOL, Family.TABLE}
    assert of[Multiplier.PREMULTIPLIED] == {Family.ADD, Family.MUL, Family.SQUARE}
