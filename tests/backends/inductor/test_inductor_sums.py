"""What is added to a product stays as it was, and the next call gives the same bits.

Inductor fuses `linear(y) + x` and `conv(y) + x` into kernels that add in place, be it into the caller's tensor.
"""

import pytest
import torch
from on_inductor import CONV, LINEAR, ROWS, act, names, rand, weight
from qdq_graphs import codes, dq, dq_channels, exported, q, s8_weight
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk.backends.inductor import lower_inductor

OTHER, RESIDUAL = rand(3, 32, seed=1), codes(2, 16, 6, 6, seed=2)
PIXEL = codes(2, 4, 1, 1, seed=3)


def linear(m, y):
    return F.linear(act(y), weight(m))


def conv(m, x):
    return F.conv2d(dq(x, 0.05, 100), weight(m), m.b)


def to_result(y):
    return q(y, 0.1, 20)


def residual(r, scale=0.1, zero_point=20):
    return dq(r, scale, zero_point)


LINEARS = {
    "input": (lambda m, y, x: linear(m, y) + x, (ROWS, OTHER)),
    "input first": (lambda m, y, x: x + linear(m, y), (ROWS, OTHER)),
    "input, relu": (lambda m, y, x: F.relu(linear(m, y) + x), (ROWS, OTHER)),
    "buffer": (lambda m, y: linear(m, y) + m.other, (ROWS,)),
    "buffer, relu": (lambda m, y: F.relu(linear(m, y) + m.other), (ROWS,)),
    "view": (lambda m, y, x: linear(m, y) + x.t(), (ROWS, rand(32, 3, seed=1))),
    "slice": (lambda m, y, x: linear(m, y) + x[1:4], (ROWS, rand(5, 32, seed=1))),
    "reshaped buffer": (lambda m, y: linear(m, y) + m.flat.reshape(3, 32), (ROWS,)),
    "clone": (lambda m, y, x: linear(m, y) + x.clone(), (ROWS, OTHER)),
    "its own input": (lambda m, y: linear(m, y) + y, (ROWS,)),
    "used again": (lambda m, y, x: (linear(m, y) + (h := x * 2), h.relu()), (ROWS, OTHER)),
    "a view used again": (lambda m, y, x: (linear(m, y) + (h := x * 2), h.t() * 3), (ROWS, OTHER)),
    "result used twice": (lambda m, y, x: ((r := linear(m, y) + x), r.relu(), r * 2), (ROWS, OTHER)),
    "two linears": (lambda m, y, x: linear(m, y) + linear(m, x), (ROWS, OTHER)),
    "in three dimensions": (lambda m, y, x: linear(m, y) + x, (rand(2, 3, 32), rand(2, 3, 32, seed=1))),
    "quantized": (lambda m, y, x: act(linear(m, y) + x), (ROWS, OTHER)),
}
CONVS = {
    "input": (lambda m, x, r: to_result(conv(m, x) + residual(r)), (codes(2, 4, 8, 8), RESIDUAL)),
    "input, relu": (lambda m, x, r: to_result(F.relu(conv(m, x) + residual(r))), (codes(2, 4, 8, 8), RESIDUAL)),
    "input of pixels": (lambda m, x, r: to_result(F.relu(pixel(m, x) + residual(r))), (PIXEL, codes(2, 16, 1, 1))),
    "float input": (lambda m, x, r: pixel(m, x) + r, (PIXEL, rand(2, 16, 1, 1))),
    "float result": (lambda m, x, r: conv(m, x) + residual(r), (codes(2, 4, 8, 8), RESIDUAL)),
    "view": (
        lambda m, x, r: to_result(conv(m, x) + residual(r.permute(0, 3, 1, 2))),
        (codes(2, 4, 8, 8), codes(2, 6, 6, 16)),
    ),
    "buffer": (lambda m, x: to_result(conv(m, x) + residual(m.codes)), (codes(2, 4, 8, 8),)),
    "used again": (
        lambda m, x, r: (to_result(conv(m, x) + residual(c := to_result(r))), c, residual(c) * 2),
        (codes(2, 4, 8, 8), rand(2, 16, 6, 6)),
    ),
    "its own input": (lambda m, x: to_result(same(m, x) + residual(x, 0.05, 100)), (codes(2, 16, 6, 6),)),
    "two blocks": (lambda m, x: to_result(same(m, h := block(m, x)) + residual(h)), (codes(2, 16, 6, 6),)),
}


CONSTANTS = {**CONV, "codes": RESIDUAL, "w1": s8_weight(16, 4, 1, 1), "w9": s8_weight(16, 16, 3, 3)}


def pixel(m, x):
    return F.conv2d(dq(x, 0.05, 100), dq_channels(m.w1, m.s, m.z), m.b)


def same(m, x):
    return F.conv2d(residual(x, 0.05, 100), dq_channels(m.w9, m.s, m.z), m.b, padding=1)


def block(m, x):
    return to_result(F.relu(same(m, x) + residual(x)))


def assert_pure(run, inputs, constants, exact):
    model = exported(run, inputs, **constants)
    expected = model(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    before = {name: value.clone() for name, value in model.named_buffers()}
    program = lower_inductor(model, inputs, min_fused=0)
    first = [result.clone() for result in program.run(*inputs)]
    kept = [tensor.clone() for tensor in inputs]
    second = program.run(*kept)
    assert all(map(torch.equal, first, second)), "the second call differs from the first"
    assert all(map(torch.equal, kept, inputs)), "an input was changed"
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers()), "a buffer was changed"
    for ours, theirs in zip(first, expected, strict=True):
        if exact and not theirs.is_floating_point():
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    return program


@pytest.mark.parametrize("name", LINEARS)
def test_linear(name):
    run, inputs = LINEARS[name]
    constants = {**LINEAR, "other": OTHER.clone(), "flat": OTHER.flatten().clone()}
    program = assert_pure(run, inputs, constants, exact=False)
    assert any(kernel.startswith("qlinear") for kernel in names(program))


@pytest.mark.parametrize("name", CONVS)
def test_conv(name):
    run, inputs = CONVS[name]
    program = assert_pure(run, inputs, CONSTANTS, exact=True)
    assert any(kernel.startswith("qconv") for kernel in names(program))


def test_the_sum_is_still_fused():
    run, inputs = LINEARS["input"]
    assert "qlinear_pointwise.binary" in names(lower_inductor(exported(run, inputs, **LINEAR), inputs))
    run, inputs = CONVS["input, relu"]
    assert "qconv2d_pointwise.binary" in names(lower_inductor(exported(run, inputs, **CONV), inputs))


def test_a_sum_of_what_is_its_own_is_not_copied():
    def run(m, x):
        first = to_result(F.conv2d(dq(x, 0.05, 100), weight(m), m.b))
        return to_result(F.conv2d(dq(x, 0.05, 100), weight(m), m.b) + residual(first))

    inputs = (codes(2, 4, 8, 8),)
    program = lower_inductor(exported(run, inputs, **CONV), inputs)
    assert "qconv2d_pointwise.binary" in names(program)
    assert not any("maximum" in name for name in names(program))
