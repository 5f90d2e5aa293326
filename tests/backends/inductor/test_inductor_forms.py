"""What inductor crashes over, leaves in float or computes wrongly is right here, and is integer where it can be."""

import pytest
import torch
from on_inductor import CONV, IMAGE, LINEAR, ROWS, S8, U8, act, assert_conforms, names, rand, scales, weight, zeros
from qdq_graphs import Q, codes, dq, dq_channels, exported, q, s8_weight
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk.backends.inductor import lower_inductor


def conv(m, x, **options):
    return F.conv2d(act(x), weight(m), m.b, **options)


def out(y, scale=0.1, zero_point=100):
    return dq(q(y, scale, zero_point), scale, zero_point)


def signed(x, scale=0.05, zero_point=-28):
    return dq(q(x, scale, zero_point, **S8), scale, zero_point, **S8)


def narrow(x, scale=0.02, low=0, high=127):
    return dq(q(x, scale, 60, low, high), scale, 60, low, high)


PRODUCTS = {
    "conv": (lambda m, x: out(conv(m, x)), IMAGE, CONV),
    "conv, relu": (lambda m, x: out(F.relu(conv(m, x)), 0.05, 0), IMAGE, CONV),
    "conv, relu6": (lambda m, x: out(F.relu6(conv(m, x)), 0.03, 0), IMAGE, CONV),
    "conv, clamp_max": (lambda m, x: out(conv(m, x).clamp(max=1.5), 0.05, 150), IMAGE, CONV),
    "conv, clamp_min": (lambda m, x: out(conv(m, x).clamp_min(-1.5), 0.05, 150), IMAGE, CONV),
    "conv, same": (lambda m, x: out(conv(m, x, padding="same")), IMAGE, CONV),
    "conv, valid": (lambda m, x: out(conv(m, x, padding="valid")), IMAGE, CONV),
    "conv, same, even kernel": (
        lambda m, x: out(conv(m, x, padding="same")),
        IMAGE,
        {**CONV, "w": s8_weight(16, 4, 2, 4)},
    ),
    "conv1d, same, even kernel": (
        lambda m, x: out(F.conv1d(act(x), weight(m), m.b, padding="same", dilation=3)),
        rand(2, 4, 12),
        {**CONV, "w": s8_weight(16, 4, 2)},
    ),
    "linear": (lambda m, x: out(F.linear(act(x), weight(m), m.b)), ROWS, LINEAR),
    "one output": (
        lambda m, x: out(F.linear(act(x), weight(m)), 2.0),
        ROWS,
        {"w": s8_weight(1, 32), "s": scales(1), "z": zeros(1)},
    ),
    "signed conv": (lambda m, x: signed(F.relu(F.conv2d(signed(x), weight(m), m.b)), 0.1, -100), IMAGE, CONV),
    "signed linear": (lambda m, x: signed(F.linear(signed(x), weight(m), m.b), 0.1), ROWS, LINEAR),
    "unsigned to signed": (lambda m, x: signed(conv(m, x), 0.1), IMAGE, CONV),
    "narrow conv": (lambda m, x: narrow(F.conv2d(narrow(x, 0.05), weight(m), m.b)), IMAGE, CONV),
    "narrow linear": (lambda m, x: narrow(F.linear(act(x), weight(m), m.b), low=5, high=99), ROWS, LINEAR),
    "weight per tensor": (lambda m, x: out(F.conv2d(act(x), dq(m.w, 0.01, 0, **S8), m.b)), IMAGE, CONV),
    "unsigned weight": (
        lambda m, x: out(F.conv2d(act(x), dq(m.w, 0.01, 128, **U8), m.b)),
        IMAGE,
        {**CONV, "w": codes(16, 4, 3, 3, low=1)},
    ),
    "conv1d, hardtanh": (
        lambda m, x: out(F.hardtanh(F.conv1d(act(x), weight(m), m.b, 2, 1))),
        rand(2, 4, 9),
        {**CONV, "w": s8_weight(16, 4, 3)},
    ),
    "padded result": (lambda m, x: out(F.pad(F.relu6(conv(m, x)), (1, 2, 0, 1)), 0.03, 0), IMAGE, CONV),
    "depthwise": (
        lambda m, x: out(F.conv2d(act(x), weight(m), groups=4)),
        IMAGE,
        {"w": s8_weight(4, 1, 3, 3), "s": scales(4), "z": zeros(4)},
    ),
    "transposed activation": (lambda m, x: out(F.linear(act(x).transpose(1, 2), weight(m))), rand(2, 32, 5), LINEAR),
}
# Reason in `floats`, and inputs.
FLOATS = {
    "zero points in the weight": (
        lambda m, x: out(F.conv2d(act(x), dq_channels(m.w, m.s, m.odd), m.b)),
        IMAGE,
        {**CONV, "w": codes(16, 4, 3, 3, low=-128, high=128, dtype=torch.int8), "odd": torch.arange(16)},
        "zero point 0",
    ),
    "transposed conv": (
        lambda m, x: out(F.conv_transpose2d(act(x), dq_channels(m.w, m.s, m.z, axis=1))),
        IMAGE,
        {"w": s8_weight(4, 6, 3, 3), "s": scales(6), "z": zeros(6)},
        "no integer kernel for aten.conv_transpose2d.input",
    ),
    "conv3d": (
        lambda m, x: out(F.conv3d(act(x), weight(m), m.b)),
        rand(1, 4, 5, 5, 5),
        {**CONV, "w": s8_weight(16, 4, 3, 3, 3)},
        "no integer kernel for aten.conv3d.default",
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_run_on_integers_and_are_right(name):
    run, x, constants = PRODUCTS[name]
    program = assert_conforms(exported(run, (x,), **constants), x)
    assert program.floats == ()
    assert all(kernel.integer for kernel in program.kernels())
    assert any(kernel.startswith(("qconv", "qlinear")) for kernel in names(program))
    assert program.delegation().non_delegated == ()


@pytest.mark.parametrize("name", FLOATS)
def test_what_has_no_integer_kernel_is_float_and_says_why(name):
    run, x, constants, reason = FLOATS[name]
    program = assert_conforms(exported(run, (x,), **constants), x)
    (text,) = program.floats
    assert reason in text
    assert not any(kernel.startswith(("qconv", "qlinear")) for kernel in names(program))
    assert program.delegation().non_delegated


@pytest.mark.parametrize("result", [(0.04, 90), (0.11, 3)], ids=["equal", "another scale"])
@pytest.mark.parametrize("kind", [U8, S8], ids=["uint8", "int8"])
def test_max_pools_of_codes(kind, result):
    def run(_, x):
        pooled = F.max_pool2d(dq(q(x, 0.04, 90, **kind), 0.04, 90, **kind), 3, 2, 1)
        return dq(q(pooled, *result, **kind), *result, **kind)

    program = assert_conforms(exported(run, (IMAGE,)), IMAGE)
    assert "quantized.max_pool2d.default" in names(program)
    assert all(kernel.integer for kernel in program.kernels())


@pytest.mark.parametrize(
    "op",
    [
        lambda x: F.avg_pool2d(x, 3, 1, 1),
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: torch.cat([x, x], 1),
        lambda x: x.flatten(1),
        torch.sigmoid,
    ],
    ids=["average", "global average", "cat", "flatten", "sigmoid"],
)
def test_other_ops_between_codes_are_one_kernel(op):
    def run(_, x):
        return out(op(act(x)), 0.05, 100)

    program = assert_conforms(exported(run, (IMAGE,)), IMAGE)
    (kernel,) = program.kernels()
    assert kernel.integer


def test_a_weight_that_two_calls_read():
    def run(m, x):
        activation, w = act(x), weight(m)
        return out(F.conv2d(activation, w, m.b)), out(F.conv2d(activation, w).relu())

    program = assert_conforms(exported(run, (IMAGE,), **CONV), IMAGE)
    assert names(program).count("qconv_pointwise") == 2


def test_a_dequantize_that_many_read():
    def run(m, x):
        activation = act(x)
        return out(F.conv2d(activation, weight(m), m.b)), out(activation * 2), out(activation.flatten(1))

    program = assert_conforms(exported(run, (IMAGE,), **CONV), IMAGE)
    assert "qconv_pointwise" in names(program)


def test_signed_constants_are_added():
    def run(m, x):
        return out(conv(m, x) + dq(m.r, 0.1, 3, **S8))

    constants = {**CONV, "r": codes(2, 16, 6, 6, low=-128, high=128, dtype=torch.int8)}
    model = exported(run, (IMAGE,), **constants)
    program = lower_inductor(model, (IMAGE,))
    assert torch.equal(program.run(IMAGE)[0], model(IMAGE))
    assert "qconv2d_pointwise.binary" in names(program)


def test_one_output_of_one_row():
    def run(m, x):
        return F.linear(act(x), weight(m))

    model = exported(run, (ROWS[:1],), w=s8_weight(1, 32), s=scales(1), z=zeros(1))
    program = lower_inductor(model, (ROWS[:1],))
    torch.testing.assert_close(program.run(ROWS[:1])[0], model(ROWS[:1]), rtol=1e-5, atol=1e-5)
    assert "qlinear_pointwise" in names(program)


def test_a_vector():
    def run(m, x):
        return F.linear(act(x), weight(m), m.b)

    model = exported(run, (ROWS[0],), **LINEAR)
    program = lower_inductor(model, (ROWS[0],))
    torch.testing.assert_close(program.run(ROWS[0])[0], model(ROWS[0]), rtol=1e-5, atol=1e-5)
    assert "qlinear_pointwise" in names(program)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_run_time_qparams(dtype):
    ends = torch.iinfo(dtype)

    def run(m, x):
        scale, zero_point = Q.choose_qparams.tensor(x, ends.min, ends.max, 1e-7, dtype)
        activation = Q.quantize_per_tensor.tensor(x, scale, zero_point, ends.min, ends.max, dtype)
        activation = Q.dequantize_per_tensor.tensor(activation, scale, zero_point, ends.min, ends.max, dtype)
        return F.linear(activation, weight(m), m.b)

    model = exported(run, (ROWS,), **LINEAR)
    program = lower_inductor(model, (ROWS,))
    torch.testing.assert_close(program.run(ROWS)[0], model(ROWS), rtol=1e-5, atol=1e-5)
    assert "qlinear_pointwise" in names(program)


def test_weights_alone_are_float_and_say_why():
    def run(m, x):
        return F.linear(x, weight(m), m.b)

    model = exported(run, (ROWS,), **LINEAR)
    program = lower_inductor(model, (ROWS,))
    torch.testing.assert_close(program.run(ROWS)[0], model(ROWS), rtol=1e-5, atol=1e-5)
    (text,) = program.floats
    assert "its activation is not quantized" in text
