"""Round the float biases of integer kernels to the int32 steps that these add, since they take no others.

Requires a functional graph with shapes. Ensures that convolutions and linears between dequantized operands and a
quantize have an int32 bias with the product of the operands' scales.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onnxruntime.exported import ExportedGraph, arguments
from quantizer_sdk.errors import LoweringError

__all__ = ["round_biases"]

aten = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_DEQUANTIZE_CHANNELS = torch.ops.quantized_decomposed.dequantize_per_channel.default
_NAMES = {
    **dict.fromkeys(
        (
            *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default),
            *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
        ),
        ("input", "weight", "bias"),
    ),
    aten.addmm.default: ("mat1", "mat2", "self"),
}
_INT32_MAX = 2**31 - 1


def round_biases(exported: ExportedGraph) -> None:
    """Put int32 biases in the place of float ones.

    Raises:
        LoweringError: One overflows.
    """
    for target, names in _NAMES.items():
        for gemm in exported.graph.find_nodes(op="call_function", target=target):
            named = arguments(gemm)
            activation, weight, bias = (named[name] for name in names)
            integer = activation.target is _DEQUANTIZE and weight.target in {_DEQUANTIZE, _DEQUANTIZE_CHANNELS}
            quantized = all(user.target is _QUANTIZE for user in gemm.users)
            scaled = named.get("alpha", 1) != 1 or named.get("beta", 1) != 1
            if integer and quantized and not scaled and bias in exported.constants:
                _round_bias(exported, gemm, activation, weight, bias)


def _round_bias(exported: ExportedGraph, gemm: Node, activation: Node, weight: Node, bias: Node) -> None:
    scale = torch.tensor(activation.args[1], dtype=torch.float32) * _scale_of(exported, weight)
    if exported.constants[bias].dim() != 1:
        return  # a bias for each row, as addmm takes: no kernel adds that
    steps = torch.round(exported.constants[bias].double() / scale.double())
    if steps.numel() and steps.abs().max() > _INT32_MAX:
        channel = int(steps.abs().argmax())
        message = (
            f"{gemm.name} ({gemm.target}): the bias of channel {channel} is {float(steps[channel]):.3g} steps of the "
            "product of the scales, and the kernel adds it as int32; a config with bias=ProductBiasSpec() makes room"
        )
        raise LoweringError(message)
    codes = exported.add_constant(f"{bias.name}_int32", steps.to(torch.int32))
    ends = (-_INT32_MAX - 1, _INT32_MAX, torch.int32)
    target: Any = _DEQUANTIZE
    operands: tuple[Any, ...] = (codes, float(scale), 0) if scale.dim() == 0 else ()
    if scale.dim():
        scales = exported.add_constant(f"{bias.name}_scale", scale)
        zeros = exported.add_constant(f"{bias.name}_zero_point", torch.zeros_like(scale, dtype=torch.int64))
        target, operands = _DEQUANTIZE_CHANNELS, (codes, scales, zeros, 0)
    with exported.graph.inserting_before(gemm):
        dequantize = exported.graph.call_function(target, (*operands, *ends))
    dequantize.meta["val"] = bias.meta["val"]
    gemm.replace_input_with(bias, dequantize)


def _scale_of(exported: ExportedGraph, dequantize: Node) -> torch.Tensor:
    """Return the float32 scale of a weight: a scalar, or [channels]."""
    scale: Any = dequantize.args[1]
    return exported.constants[scale] if isinstance(scale, Node) else torch.tensor(scale, dtype=torch.float32)
