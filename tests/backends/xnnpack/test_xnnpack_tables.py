"""Functions of one number as tables of 256 codes: every code, bit for bit, and fused only where the runtime fuses."""

import math

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed
from torch import nn

from quantizer_sdk.backends.xnnpack.lowering import lower

pytest.importorskip("executorch")

OPS = torch.ops.quantized_decomposed
F32 = np.float32
EVERY = torch.arange(-128, 128).to(torch.int8)

# (input scale, input zero point, output scale, output zero point): generic, fine, and dyadic with an odd zero point.
QPARAMS = (
    (0.0317, -7, 0.0123, 5),
    (0.0079, 100, 0.021, -128),
    (2.0**-5, 3, 2.0**-4, 35),
    (0.0557, -128, 0.0412, -61),
)


def exactly(function):
    """The nearest float32 of what float64 gives."""
    return lambda x: function(x.astype(np.float64)).astype(F32)


def hardswish(x):
    return x * np.maximum(np.minimum(x + F32(3), F32(6)), F32(0)) / F32(6)


FUNCTIONS = {
    "Sigmoid": (torch.sigmoid, exactly(lambda x: 1 / (1 + np.exp(-x)))),
    "Tanh": (torch.tanh, exactly(np.tanh)),
    "Hardswish": (nn.functional.hardswish, hardswish),
    "LeakyReLU": (lambda x: nn.functional.leaky_relu(x, 0.1), lambda x: np.where(x < 0, x * F32(0.1), x)),
    "Negate": (torch.neg, np.negative),
    "Abs": (torch.abs, np.abs),
    "Square": (torch.square, np.square),
    "SquareRoot": (torch.sqrt, exactly(np.sqrt)),
    "ReciprocalSquareRoot": (torch.rsqrt, lambda x: F32(1) / np.sqrt(x)),
    "Exp": (torch.exp, exactly(np.exp)),
    "Log": (torch.log, exactly(np.log)),
    "Sin": (torch.sin, exactly(np.sin)),
    "Cos": (torch.cos, exactly(np.cos)),
    "Ceiling": (torch.ceil, np.ceil),
    "Floor": (torch.floor, np.floor),
    "Gelu": (nn.functional.gelu, exactly(lambda x: x * np.vectorize(lambda v: math.erf(v / 2**0.5) + 1)(x) / 2)),
}


class Between(nn.Module):
    """Functions, each between a dequantize of its own input and a quantize."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions

    def forward(self, *inputs):
        results = []
        for codes, (function, (scale, zero, out_scale, out_zero)) in zip(inputs, self.functions, strict=True):
            real = OPS.dequantize_per_tensor.default(codes, scale, zero, -128, 127, torch.int8)
            results.append(OPS.quantize_per_tensor.default(function(real), out_scale, out_zero, -128, 127, torch.int8))
        return tuple(results)


def lowered(module, *inputs):
    return lower(torch.export.export(module, inputs, strict=False).module(), inputs)


@pytest.fixture(scope="module")
def tables():
    """The program of all functions, and what it makes of every code under each of the qparams."""
    cases = [(name, qparams) for name in FUNCTIONS for qparams in QPARAMS]
    inputs = [EVERY.clone() for _ in cases]
    program = lowered(Between([(FUNCTIONS[name][0], qparams) for name, qparams in cases]), *inputs)
    return program, dict(zip(cases, program.run(*inputs), strict=True))


def predicted(name, qparams, factor=1.0):
    """float32 throughout, times the reciprocal of the output's scale, half to even, then the zero point."""
    scale, zero, out_scale, out_zero = qparams
    with np.errstate(all="ignore"):
        real = FUNCTIONS[name][1]((EVERY.numpy().astype(np.int64) - zero).astype(F32) * F32(scale))
        steps = np.rint(real * (F32(1) / F32(out_scale)) * F32(factor))
        codes = np.where(np.isnan(steps), 127, np.clip(steps + out_zero, -128, 127))
    return torch.from_numpy(codes.astype(np.int8))


def test_each_is_one_integer_kernel(tables):
    program, _codes = tables
    kernels = program.kernels()
    assert {kernel.name for kernel in kernels} == {f"Table({name})" for name in FUNCTIONS}
    assert len(kernels) == len(FUNCTIONS) * len(QPARAMS)
    assert all(kernel.integer and not kernel.conversion for kernel in kernels)
    assert program.delegation().non_delegated == ()


@pytest.mark.parametrize("qparams", QPARAMS, ids=str)
@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"Gelu"}))
def test_every_code_is_what_arithmetic_gives(tables, name, qparams):
    # Outside of the domain of square roots and logarithms the result is NaN, whose code is the largest.
    assert torch.equal(tables[1][name, qparams], predicted(name, qparams))


@pytest.mark.parametrize("qparams", QPARAMS, ids=str)
def test_gelu_is_within_four_roundoffs_of_its_function(tables, qparams):
    codes = tables[1]["Gelu", qparams]
    ends = [predicted("Gelu", qparams, 1 + sign * 4 * 2.0**-24) for sign in (-1, 1)]
    assert ((codes >= torch.minimum(*ends)) & (codes <= torch.maximum(*ends))).all()


class Read(nn.Module):
    """A sigmoid between conversions; `twice` lets another op read its float operand."""

    def __init__(self, twice):
        super().__init__()
        self.twice = twice

    def forward(self, codes):
        real = OPS.dequantize_per_tensor.default(codes, 0.03, -5, -128, 127, torch.int8)
        result = OPS.quantize_per_tensor.default(torch.sigmoid(real), 0.01, 3, -128, 127, torch.int8)
        again = OPS.dequantize_per_tensor.default(codes, 0.03, -5, -128, 127, torch.int8)
        other = torch.abs(real if self.twice else again)
        return result, OPS.quantize_per_tensor.default(other, 0.01, 3, -128, 127, torch.int8)


# What is fused cannot be read from the file. Measured on 2^20 codes: 314 µs for two tables, 676 µs for the same
# functions behind one dequantize, 614 µs for the sigmoid alone in float.
def test_a_float_value_that_two_ops_read_is_in_no_table():
    codes = torch.randint(-128, 128, (64,), dtype=torch.int8)
    apart, together = (lowered(Read(twice), codes) for twice in (False, True))
    assert [kernel.name for kernel in apart.kernels()] == ["Table(Sigmoid)", "Table(Abs)"]
    assert [kernel.name for kernel in together.kernels()] == ["Convert", "Sigmoid", "Convert", "Abs", "Convert"]


def test_functions_in_a_row_are_one_table():
    function = (lambda x: torch.tanh(torch.abs(x)), QPARAMS[0])
    program = lowered(Between([function]), EVERY)
    (kernel,) = program.kernels()
    assert kernel.name == "Table(Abs, Tanh)"
    (codes,) = program.run(EVERY)
    assert torch.equal(codes, Between([function])(EVERY)[0])
