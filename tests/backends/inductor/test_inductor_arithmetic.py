"""The profile, bit for bit: each kernel against its formula in numpy, where every other sum is next to a tie.

The scales are such that sums come out half way between two codes but for the roundoff of each step: which way they go
tells the steps and their order.
"""

import numpy as np
import pytest
import torch
from on_inductor import names
from qdq_graphs import codes, dq, dq_channels, exported, q, s8_weight
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk.backends.inductor import lower_inductor
from quantizer_sdk.backends.inductor.profile import PROFILE
from quantizer_sdk.profile import BiasForm, Family, Multiplier, ZeroPointOrder

f32 = np.float32
ROWS, DEPTH, CHANNELS = 256, 2, 64
# Scales of activation, weight and result; zero points of activation and result.
QPARAMS = {
    "even": ((0.0373, 0.0211, 2), (17, 126)),
    "odd": ((0.0911, 0.0067, 6), (200, 127)),
    "tenths": ((0.1, 0.3, 10), (3, 101)),
    "dyadic": ((0.25, 0.125, 8), (130, 127)),
}
EACH = pytest.mark.parametrize("name", QPARAMS)


class Case:
    """A product's operands, and what each step of the kernel makes of them."""

    def __init__(self, name, seed=0):
        (sx, sw, ties), (self.zx, self.zy) = QPARAMS[name]
        self.sx, self.sw = f32(sx), f32(sw)
        self.sy = f32(np.float64(self.sx) * np.float64(self.sw) * ties)
        self.x = codes(ROWS, DEPTH, seed=seed)
        self.w = s8_weight(CHANNELS, DEPTH, seed=seed + 1)
        steps = np.random.default_rng(seed).integers(-9, 9, CHANNELS)
        self.b = (steps * np.float64(self.sx) * np.float64(self.sw)).astype(f32)
        self.constants = {
            "w": self.w,
            "kernel": self.w[:, :, None, None].contiguous(),
            "s": torch.full((CHANNELS,), float(self.sw)),
            "z": torch.zeros(CHANNELS, dtype=torch.int64),
            "b": torch.from_numpy(self.b),
        }

    def product(self):
        total = (self.x.numpy().astype(np.int64) - self.zx) @ self.w.numpy().astype(np.int64).T
        return (total.astype(f32) * self.sx) * self.sw + self.b

    def to_codes(self, real):
        """Return what oneDNN makes of a number: the zero point comes before rounding."""
        return np.clip(np.rint(real * (f32(1) / self.sy) + f32(self.zy)), 0, 255).astype(np.uint8)

    def linear(self, m, x):
        return F.linear(dq(x, float(self.sx), self.zx), dq_channels(m.w, m.s, m.z), m.b)

    def conv(self, m, x):
        return F.conv2d(dq(x, float(self.sx), self.zx), dq_channels(m.kernel, m.s, m.z), m.b)

    def quantize(self, y):
        return q(y, float(self.sy), self.zy)


def to_image(rows):
    return rows.reshape(1, 16, 16, -1).permute(0, 3, 1, 2).contiguous()


def to_rows(image):
    return image.permute(0, 2, 3, 1).reshape(ROWS, -1).numpy()


def run(function, inputs, constants, kernel):
    program = lower_inductor(exported(function, inputs, **constants), inputs, min_fused=0)
    assert kernel in names(program)
    return program.run(*inputs)[0]


@EACH
@pytest.mark.parametrize("relu", [False, True])
def test_a_linear_rounds_after_each_step_and_adds_the_zero_point_before_the_last(name, relu):
    case = Case(name)

    def function(m, x):
        y = case.linear(m, x)
        return case.quantize(F.relu(y) if relu else y)

    actual = run(function, (case.x,), case.constants, "qlinear_pointwise").numpy()
    real = np.maximum(case.product(), 0) if relu else case.product()
    assert np.array_equal(actual, case.to_codes(real))
    after = np.clip(np.rint(real * (f32(1) / case.sy)) + case.zy, 0, 255)
    if name in {"odd", "dyadic"}:  # else the order of the zero point makes no difference
        assert not np.array_equal(actual, after)


@EACH
def test_a_conv_rounds_as_a_linear(name):
    case = Case(name, seed=3)

    def function(m, x):
        return case.quantize(case.conv(m, x))

    actual = to_rows(run(function, (to_image(case.x),), case.constants, "qconv_pointwise"))
    assert np.array_equal(actual, case.to_codes(case.product()))


@EACH
@pytest.mark.parametrize("relu", [False, True])
def test_a_conv_adds_the_residual_in_one_rounding(name, relu):
    case = Case(name, seed=6)
    other, scale, zero_point = codes(ROWS, CHANNELS, seed=8), float(f32(case.sy * f32(0.77))), 77

    def function(m, x, r):
        y = case.conv(m, x) + dq(r, scale, zero_point)
        return case.quantize(F.relu(y) if relu else y)

    inputs = (to_image(case.x), to_image(other))
    actual = to_rows(run(function, inputs, case.constants, "qconv2d_pointwise.binary"))
    number = other.numpy().astype(np.longdouble) - zero_point  # 64 bits of mantissa: the sum is rounded once
    real = (number * np.longdouble(f32(scale)) + case.product().astype(np.longdouble)).astype(f32)
    assert np.array_equal(actual, case.to_codes(np.maximum(real, 0) if relu else real))


def test_the_profile_says_so():
    dot = PROFILE.arithmetic[Family.DOT]
    assert PROFILE.bias is BiasForm.FLOAT32
    assert (dot.multiplier, dot.zero_point) == (Multiplier.RECIPROCAL, ZeroPointOrder.BEFORE)


PAIRS = {
    "tenths": ((0.1, 0.1, 0.2), (131, 117, 127)),
    "dyadic": ((0.25, 0.125, 0.5), (131, 117, 127)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("op", [torch.add, torch.mul])
def test_written_kernels_compute_as_the_graph_says(name, op):
    (sa, sb, sy), (za, zb, zy) = PAIRS[name]
    a, b = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    a, b = a.to(torch.uint8), b.to(torch.uint8)

    def function(_, a, b):
        return q(op(dq(a, sa, za), dq(b, sb, zb)), sy, zy)

    program = lower_inductor(exported(function, (a, b)), (a, b))
    (kernel,) = program.kernels()
    assert kernel.integer
    actual = program.run(a, b)[0].numpy()
    left, right = ((x.numpy().astype(f32) - f32(z)) * f32(s) for x, s, z in ((a, sa, za), (b, sb, zb)))
    real = left + right if op is torch.add else left * right
    assert np.array_equal(actual, np.clip(np.rint(real * (f32(1) / f32(sy))) + zy, 0, 255))
    written = PROFILE.arithmetic[Family.ADD if op is torch.add else Family.MUL]
    assert (written.multiplier, written.zero_point) == (Multiplier.RECIPROCAL, ZeroPointOrder.AFTER)
