"""Models of a function, quantized for oneDNN, lowered and run on random codes."""

import torch
from random_codes import run_on_random_codes
from torch import nn
from torch.utils._pytree import tree_leaves

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.onednn import lower_eager
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config

OPS = torch.ops.quantized_decomposed
GEMMS = {"onednn.qconv_pointwise", "onednn.qconv2d_pointwise", "onednn.qlinear_pointwise", "aten._int_mm"}


class Run(nn.Module):
    """A function of itself and its inputs, with tensors and modules by name."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def quantized(export, module, *inputs, quantize_results=False, quantizer=None, **config):
    """Quantize with 8-bit weights, whatever this machine multiplies without loss."""
    if quantizer is None:
        options = get_default_x86_quantization_config(**{"reduce_range": False, **config})
        quantizer = X86Quantizer("onednn", quantize_results=quantize_results).set_global(options)
    prepared = prepare_pt2e(export(module.eval(), *inputs), quantizer)
    calibrate(prepared, [inputs])
    return convert_pt2e(prepared)


def on_codes(model, *inputs, step=1):
    program = run_on_random_codes(lower_eager, model, *inputs, step=step)
    assert_runs_as_its_module(program, *program.example_inputs)
    return program


def assert_runs_as_its_module(program, *inputs):
    """What a program computes the short way, the first time and again, has the bits of its graph module."""
    with torch.no_grad():
        expected = tree_leaves(program.module(*inputs))
    for _ in range(2):
        found = program.run(*inputs)
        assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in expected]
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def names(program):
    return [kernel.name for kernel in program.kernels() if not kernel.moves]


def through(x, scale, zero_point, low=0, high=255, dtype=torch.uint8):
    arguments = (scale, zero_point, low, high, dtype)
    return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *arguments), *arguments)


class Linear(nn.Module):
    """A linear layer of int8 codes, written by hand."""

    def __init__(self, inputs=16, outputs=24, bias=True, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        codes = torch.randint(-127, 128, (outputs, inputs), generator=generator).to(torch.int8)
        self.register_buffer("weight", codes)
        self.register_buffer("scale", torch.rand(outputs, generator=generator) * 0.01 + 0.001)
        self.register_buffer("zero_point", torch.zeros(outputs, dtype=torch.int64))
        self.register_buffer("bias", torch.randn(outputs, generator=generator) if bias else None)

    def forward(self, x):
        weight = OPS.dequantize_per_channel(self.weight, self.scale, self.zero_point, 0, -128, 127, torch.int8)
        return nn.functional.linear(x, weight, self.bias)
