"""Predicted bits: the formulas of each family written out once more, by hand, on values whose rounding matters."""

import math

import pytest
import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed

from quantizer_sdk import Profile
from quantizer_sdk.conformance import run_oracle
from quantizer_sdk.conformance.emulator import emulate
from quantizer_sdk.profile import Arithmetic, BiasForm, Family, Multiplier, Rounding, ZeroPointOrder

Q = torch.ops.quantized_decomposed
EVERY = torch.arange(-128, 128, dtype=torch.int8)


def through(x, scale, zero_point):
    codes = Q.quantize_per_tensor.default(x, scale, zero_point, -128, 127, torch.int8)
    return Q.dequantize_per_tensor.default(codes, scale, zero_point, -128, 127, torch.int8)


class Graph(torch.nn.Module):
    def __init__(self, function, inputs, output):
        super().__init__()
        self.function, self.ins, self.out = function, inputs, output

    def forward(self, *xs):
        return through(self.function(*[through(x, *q) for x, q in zip(xs, self.ins, strict=True)]), *self.out)


def site(function, inputs, output, *codes):
    model = torch.export.export(Graph(function, inputs, output), tuple(c.float() for c in codes)).module()
    return run_oracle(model, codes).outputs[0]


def profile(**families):
    return Profile(name="test", arithmetic={Family[name.upper()]: value for name, value in families.items()})


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        (Rounding.HALF_EVEN, [-2, 0, 0, 2]),
        (Rounding.HALF_UP, [-1, 0, 1, 2]),
        (Rounding.HALF_AWAY, [-2, -1, 1, 2]),
        (Rounding.TRUNCATE, [-1, 0, 0, 1]),
    ],
)
def test_where_halves_go(rounding, expected):
    codes = torch.tensor([-3, -1, 1, 3], dtype=torch.int8)
    found = site(torch.mul, [(0.5, 0), (1.0, 0)], (1.0, 0), codes, torch.ones_like(codes))
    assert emulate(found, profile(mul=Arithmetic(rounding=rounding))).tolist() == expected


def test_a_zero_point_added_before_rounding_gives_ties_its_parity():
    codes = torch.tensor([1, 3, 5], dtype=torch.int8)
    found = site(torch.mul, [(0.5, 0), (1.0, 0)], (1.0, 1), codes, torch.ones_like(codes))
    assert emulate(found, profile(mul=Arithmetic())).tolist() == [1, 3, 3]
    before = Arithmetic(zero_point=ZeroPointOrder.BEFORE)
    assert emulate(found, profile(mul=before)).tolist() == [2, 2, 4]


def test_fixed_point_addition_rounds_each_operands_multiplier():
    a, b = EVERY.reshape(-1, 1), EVERY.reshape(1, -1)
    (sa, za), (sb, zb), (so, zo) = (0.031, 7), (0.0123, -9), (0.05, 3)
    found = site(torch.add, [(sa, za), (sb, zb)], (so, zo), a, b)
    ratios = [torch.tensor(s, dtype=torch.float32) / torch.tensor(so, dtype=torch.float32) for s in (sa, sb)]
    shift = 20 - math.floor(math.log2(max(map(float, ratios))))
    ma, mb = (round(float(ratio) * 2**shift) for ratio in ratios)
    total = (a.long() - za) * ma + (b.long() - zb) * mb
    wanted = (((total + (1 << (shift - 1))) >> shift) + zo).clamp(-128, 127)
    arithmetic = Arithmetic(multiplier=Multiplier.FIXED_POINT, rounding=Rounding.HALF_UP)
    assert torch.equal(emulate(found, profile(add=arithmetic)), wanted)


def test_a_mean_with_folded_zero_points_rounds_each_product_and_sum():
    codes = torch.randint(-128, 128, (3, 5, 4, 4), dtype=torch.int8)
    (sx, zx), (so, zo) = (0.0371, -11), (0.0093, 6)
    found = site(lambda x: x.mean((2, 3), keepdim=True), [(sx, zx)], (so, zo), codes)
    f = [torch.tensor(v, dtype=torch.float32) for v in (sx, so, 16.0)]
    ratio = f[0] / f[1] * (1 / f[2])
    constant = zo - torch.tensor(float(zx * 16)) * ratio
    wanted = torch.round(codes.long().sum((2, 3), keepdim=True).float() * ratio + constant).long().clamp(-128, 127)
    arithmetic = Arithmetic(multiplier=Multiplier.FOLDED, zero_point=ZeroPointOrder.BEFORE)
    assert torch.equal(emulate(found, profile(mean=arithmetic)), wanted)


class Gemm(torch.nn.Module):
    """A linear layer of two features on scales of their own, with a bias between two steps of its accumulator."""

    def __init__(self):
        super().__init__()
        self.register_buffer("w", torch.tensor([[3, -5], [100, 7]], dtype=torch.int8))
        self.register_buffer("s", torch.tensor([0.013, 0.0007]))
        self.register_buffer("z", torch.zeros(2, dtype=torch.int64))
        self.b = torch.nn.Parameter(torch.tensor([0.1234567, -0.7654321]))

    def forward(self, x):
        w = Q.dequantize_per_channel.default(self.w, self.s, self.z, 0, -127, 127, torch.int8)
        return through(torch.nn.functional.linear(through(x, 0.037, 4), w, self.b).relu(), 0.0021, -100)


@pytest.mark.parametrize("bias", BiasForm)
def test_a_gemm_multiplies_its_int32_accumulator_once(bias):
    codes = torch.randint(-128, 128, (200, 2), dtype=torch.int8)
    model = torch.export.export(Gemm(), (codes.float(),)).module()
    found = run_oracle(model, [codes]).outputs[0]
    gemm = Gemm()
    sx, sy = torch.tensor(0.037), torch.tensor(0.0021)
    step = sx * gemm.s
    accumulator = (codes.long() - 4) @ gemm.w.long().T
    if bias is BiasForm.INT32:
        real = (accumulator + torch.round(gemm.b.detach().double() / step.double()).long()).float() * (step / sy)
    else:
        real = (accumulator.float() * step + gemm.b.detach()) / sy
    wanted = (torch.round(real).long() - 100).clamp(-100, 127)  # the relu is the code of 0
    arithmetic = Profile(name="test", arithmetic={Family.DOT: Arithmetic()}, bias=bias)
    assert torch.equal(emulate(found, arithmetic), wanted)


@pytest.mark.parametrize("order", ZeroPointOrder)
def test_a_gemm_that_is_reciprocal_dequantizes_scale_by_scale(order):
    codes = torch.randint(-128, 128, (200, 2), dtype=torch.int8)
    model = torch.export.export(Gemm(), (codes.float(),)).module()
    arithmetic = Arithmetic(multiplier=Multiplier.RECIPROCAL, zero_point=order)
    kernels = Profile(name="test", arithmetic={Family.DOT: arithmetic}, bias=BiasForm.FLOAT32)
    found = run_oracle(model, [codes], kernels).outputs[0]
    gemm = Gemm()
    accumulator = ((codes.long() - 4) @ gemm.w.long().T).float()
    t = (accumulator * torch.tensor(0.037) * gemm.s + gemm.b.detach()) * (1 / torch.tensor(0.0021))
    wanted = torch.round(t) - 100 if order is ZeroPointOrder.AFTER else torch.round(t - 100)
    assert torch.equal(emulate(found, kernels), wanted.long().clamp(-100, 127))
    assert (found.kernel_delta > 0).all()


@pytest.mark.parametrize(("function", "family"), [(torch.add, "add"), (torch.sub, "add"), (torch.mul, "mul")])
def test_sums_and_products_that_are_reciprocal_are_those_of_the_graph(function, family):
    a, b = EVERY.reshape(-1, 1), EVERY.reshape(1, -1)
    (sa, za), (sb, zb), (so, zo) = (0.031, 7), (0.0123, -9), (0.05 if family == "add" else 0.011, 3)
    found = site(function, [(sa, za), (sb, zb)], (so, zo), a, b)
    x, y = (a.long() - za).float() * torch.tensor(sa), (b.long() - zb).float() * torch.tensor(sb)
    wanted = (torch.round(function(x, y) * (1 / torch.tensor(so))).long() + zo).clamp(-128, 127)
    arithmetic = Arithmetic(multiplier=Multiplier.RECIPROCAL)
    assert torch.equal(emulate(found, profile(**{family: arithmetic})), wanted)


def test_premultiplied_sums_fuse_and_products_scale_once():
    a, b = EVERY.reshape(-1, 1), EVERY.reshape(1, -1)
    (sa, za), (sb, zb), so = (0.046685006469488144, 8), (0.015561668202280998, -9), 0.06224667280912399
    f = [torch.tensor(v, dtype=torch.float32) for v in (sa, sb, so)]
    arithmetic = Arithmetic(multiplier=Multiplier.PREMULTIPLIED)
    found = site(torch.add, [(sa, za), (sb, zb)], (so, 3), a, b)
    fused = [
        (codes.double() * scale.double() - (scale * float(zero)).double()).float()
        for codes, scale, zero in ((a, f[0], za), (b, f[1], zb))
    ]
    wanted = (torch.round((fused[0] + fused[1]) * (1 / f[2])).long() + 3).clamp(-128, 127)
    assert torch.equal(emulate(found, profile(add=arithmetic)), wanted)
    assert not torch.equal(wanted, emulate(found, profile(add=Arithmetic(multiplier=Multiplier.RECIPROCAL))))
    found = site(torch.mul, [(sa, za), (sb, zb)], (0.0113, 3), a, b)
    product = ((a.long() - za) * (b.long() - zb)).float()
    wanted = (torch.round(product * (f[0] * f[1] * (1 / torch.tensor(0.0113)))).long() + 3).clamp(-128, 127)
    assert torch.equal(emulate(found, profile(mul=arithmetic)), wanted)


def test_the_bound_of_a_clamp_is_rounded_as_results_are_where_a_gemm_is_reciprocal():
    codes = torch.full((1, 2), 127, dtype=torch.int8)

    class Clamped(Gemm):
        def forward(self, x):
            w = Q.dequantize_per_channel.default(self.w, self.s, self.z, 0, -127, 127, torch.int8)
            return through(torch.nn.functional.linear(through(x, 1.0, 0), w).clamp(0.0, 2.5), 1.0, 1)

    model = torch.export.export(Clamped(), (codes.float(),)).module()
    found = run_oracle(model, [codes]).outputs[0]
    for order, expected in ((ZeroPointOrder.AFTER, 3), (ZeroPointOrder.BEFORE, 4)):
        arithmetic = Arithmetic(multiplier=Multiplier.RECIPROCAL, zero_point=order)
        kernels = Profile(name="test", arithmetic={Family.DOT: arithmetic}, bias=BiasForm.FLOAT32)
        assert emulate(found, kernels).max() == expected


def test_a_family_that_the_profile_does_not_name_is_not_predicted():
    found = site(torch.mul, [(0.5, 0), (1.0, 0)], (1.0, 0), EVERY, EVERY)
    assert emulate(found, profile(add=Arithmetic())) is None


def test_codes_that_only_move_are_the_same_whatever_the_profile():
    found = site(lambda x: x.reshape(16, 16), [(0.5, 3)], (0.5, 3), EVERY)
    assert torch.equal(emulate(found, profile()), EVERY.long().reshape(16, 16))
