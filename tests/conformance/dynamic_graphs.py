"""Gemms of run-time qparams written by hand, as a converter would leave them: not a test."""

import torch
import torch.ao.quantization.fx._decomposed
from torch import nn

from quantizer_sdk.granularity import PerBlock  # registers the ops of blocks with the rest of the package

ops = torch.ops.quantized_decomposed
__all__ = ["DynamicConv", "DynamicLinear", "exported"]
assert PerBlock


class _Dynamic(nn.Module):
    def __init__(self, shape, out, *, bits, bias, axis, group=None, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(shape, generator=generator)
        self.low, self.high = (-127, 127) if bits == 8 else (-8, 7)
        self.axis, self.group = axis, group
        if group is None:
            lanes = weight.movedim(axis, 0).flatten(1)
            scales = lanes.abs().amax(1) / self.high
            zeros = torch.zeros(len(scales), dtype=torch.int64)
            codes = ops.quantize_per_channel(weight, scales, zeros, axis, self.low, self.high, torch.int8)
        else:
            scales = weight.reshape(shape[0], -1, group).abs().amax(-1) / self.high
            scales = scales.to(torch.bfloat16).float()
            zeros = torch.zeros(scales.shape, dtype=torch.int32)
            codes = ops.quantize_per_channel_group(weight, scales, zeros, self.low, self.high, torch.int8, group)
        self.scales, self.zeros, self.codes = nn.Buffer(scales), nn.Buffer(zeros), nn.Buffer(codes)
        self.bias = nn.Parameter(torch.randn(out, generator=generator)) if bias else None

    def weight(self):
        arguments = (self.codes, self.scales, self.zeros)
        if self.group is None:
            return ops.dequantize_per_channel(*arguments, self.axis, self.low, self.high, torch.int8)
        last = (self.low, self.high, torch.int8, self.group, torch.float32)
        return ops.dequantize_per_channel_group(*arguments, *last)


class DynamicLinear(_Dynamic):
    """A linear layer whose rows have qparams of their own, or with `per_tensor` one scale for all."""

    def __init__(self, features, out, *, bits=8, bias=True, group=None, relu=False, per_tensor=False, seed=0):
        super().__init__((out, features), out, bits=bits, bias=bias, axis=0, group=group, seed=seed)
        self.relu, self.per_tensor = relu, per_tensor

    def forward(self, x):
        codes = (-128, 127, torch.int8)
        if self.per_tensor:
            scale, zero = ops.choose_qparams.tensor(x, -128, 127, 2.0**-23, torch.int8)
            x = ops.quantize_per_tensor.tensor(x, scale, zero, *codes)
            x = ops.dequantize_per_tensor.tensor(x, scale, zero, *codes)
        else:
            scale, zero = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
            x = ops.quantize_per_token(x, scale, zero, *codes)
            x = ops.dequantize_per_token(x, scale, zero, *codes, torch.float32)
        result = nn.functional.linear(x, self.weight(), self.bias)
        return result.relu() if self.relu else result


class DynamicConv(_Dynamic):
    """A convolution, or with `transposed` its transpose, whose samples have qparams of their own."""

    def __init__(self, channels, out, *, transposed=False, bias=True, groups=1, seed=0):
        shape = (channels, out, 3, 3) if transposed else (out, channels // groups, 3, 3)
        super().__init__(shape, out, bits=8, bias=bias, axis=int(transposed), seed=seed)
        self.transposed, self.groups = transposed, groups

    def forward(self, x):
        own, block = torch.ops.quantizer_sdk, [1, -1, -1, -1]
        codes = (-128, 127, torch.int8)
        scale, zero = own.choose_qparams_per_block(x, block, -128, 127, 0.0, torch.int8)
        x = own.quantize_per_block(x, block, scale, zero, *codes)
        x = own.dequantize_per_block(x, block, scale, zero, *codes)
        if self.transposed:
            return nn.functional.conv_transpose2d(x, self.weight(), self.bias, stride=2)
        return nn.functional.conv2d(x, self.weight(), self.bias, groups=self.groups)


def exported(module, x):
    """Return the module of the exported program."""
    return torch.export.export(module.eval(), (x,)).module()
