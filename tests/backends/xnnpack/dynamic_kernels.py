"""What XNNPACK's kernels for activations quantized at run time compute, written out; and models quantized for them."""

import torch

from quantizer_sdk import convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config, lower


def config(**options):
    return get_symmetric_quantization_config(is_per_channel=True, **{"is_dynamic": True, **options})


def quantized(export, module, x, quantizer=None, **options):
    """Convert a module without any calibration data."""
    quantizer = quantizer or XNNPACKQuantizer().set_global(config(**options))
    return convert_pt2e(prepare_pt2e(export(module.eval(), x), quantizer))


def lowered(model, x, **options):
    """Return the program and the names and types of its kernels, conversions left out."""
    program = lower(model, (x,), **options)
    assert program.delegation().non_delegated == ()
    return program, [(kernel.name, *kernel.inputs) for kernel in program.kernels() if not kernel.conversion]


def codes(x, axes):
    """Quantize by the range of these axes, as the kernel does: all in float32.

    Returns:
        The codes less their zero point, and the scale, float32.
    """
    low, high = x.amin(axes, keepdim=True).clamp(max=0), x.amax(axes, keepdim=True).clamp(min=0)
    inverse = torch.where(low == high, 1.0, torch.tensor(255.0) / (high - low))
    at_low, at_high = low * inverse, high * inverse
    zero_point = torch.where((-128.0 + at_low) + (127.0 + at_high) > 0, -128.0 - at_low, 127.0 - at_high)
    zero_point = zero_point.clamp(-128, 127).round()
    return ((x * inverse).round() + zero_point).clamp(-128, 127) - zero_point, 1.0 / inverse


def scaled(accumulator, scale, weight_scale, bias):
    """Scale exact sums of products back to float: a product, then one fused multiply and add."""
    product = accumulator.to(torch.float32) * scale
    return (product.double() * weight_scale.double() + bias.double()).to(torch.float32)


def linear(x, state):
    """A linear layer with a scale for each channel of its weight, to the bit."""
    operand, scale = codes(x, -1)
    accumulator = operand.double() @ state["weight"].double().T
    return scaled(accumulator, scale, state["weight_scale"], state.get("bias", torch.zeros(())))


def convolution(x, state, function, axes=(1, 2, 3), weight_axis=0, **arguments):
    """A convolution with a scale for each sample, or for each pixel with `axes` 1, to the bit."""
    operand, scale = codes(x, axes)
    accumulator = function(operand.double(), state["weight"].double(), **arguments)
    weight_scale = state["weight_scale"].reshape(1, -1, 1, 1)
    return scaled(accumulator, scale, weight_scale, state.get("bias", torch.zeros(1)).reshape(1, -1, 1, 1))


def linear_of_groups(x, state, size):
    """A linear layer with a scale for each group of its weight, to the bit: sums of groups, a product, then a sum."""
    operand, scale = codes(x, -1)
    groups, weights = operand.double().split(size, -1), state["weight"].double().split(size, 1)
    total = torch.zeros(*x.shape[:-1], len(state["weight"]))
    for group, weight, weight_scale in zip(groups, weights, state["weight_scale"].T, strict=True):
        total += (group @ weight.T).to(torch.float32) * weight_scale
    return total * scale + state.get("bias", torch.zeros(()))
