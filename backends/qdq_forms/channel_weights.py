"""Weights as int8 codes with zero point 0 and a scale for each output channel, the one form that x86 kernels know.

Requires a copy of the user's model. Ensures: a weight of a convolution or linear whose codes fit in that form has it,
and stands for the same numbers; the others are as before.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.qdq_forms.gemm_weights import CONVOLUTIONS, weight_of
from quantizer_sdk.backends.qdq_forms.new_nodes import add_call, add_constant, constant_of

__all__ = ["to_channel_weights"]

_OPS = torch.ops.quantized_decomposed
_TARGETS = CONVOLUTIONS | {torch.ops.aten.linear.default}
_CODES = torch.iinfo(torch.int8)


def to_channel_weights(model: GraphModule) -> None:
    """Rewrite the weights of convolutions and linears.

    A scale for the whole weight becomes one for each channel; uint8 codes and zero points other than 0 become int8
    codes without a zero point, where the difference fits in int8.

    Args:
        model: The graph to change.
    """
    done: dict[Node, Node] = {}
    for node in list(model.graph.nodes):
        weight = weight_of(node) if node.target in _TARGETS else None
        if weight is None or weight is not node.args[1]:
            continue
        if weight not in done:
            done[weight] = _rewritten(model, weight)
        node.replace_input_with(weight, done[weight])
    model.graph.eliminate_dead_code()
    model.recompile()


def _rewritten(model: GraphModule, weight: Node) -> Node:
    """Return a dequantize of the same numbers in the wanted form, or `weight` itself."""
    source = weight.args[0]
    codes = constant_of(model, source)
    qparams = _qparams(model, weight, 0 if codes is None else len(codes))
    if codes is None or qparams is None or codes.dtype not in {torch.int8, torch.uint8}:
        return weight
    scales, zero_points = qparams
    per_channel = weight.target is _OPS.dequantize_per_channel.default
    if per_channel and codes.dtype is torch.int8 and not zero_points.any():
        return weight
    # int16 holds every difference of two bytes.
    shifted = codes.to(torch.int16) - zero_points.to(torch.int16).reshape(-1, *[1] * (codes.dim() - 1))
    if shifted.numel() and not _CODES.min <= int(shifted.min()) <= int(shifted.max()) <= _CODES.max:
        return weight
    assert isinstance(source, Node)
    if codes.dtype is not torch.int8 or zero_points.any():
        source = add_constant(model, source, shifted.to(torch.int8), "int8")
    scale = add_constant(model, source, scales, "scales")
    zero_point = add_constant(model, source, torch.zeros(len(scales), dtype=torch.int64), "zero_points")
    with model.graph.inserting_before(weight):
        arguments = (source, scale, zero_point, 0, _CODES.min, _CODES.max, torch.int8)
        return add_call(_OPS.dequantize_per_channel.default, *arguments, like=weight, **weight.kwargs)


def _qparams(model: GraphModule, weight: Node, channels: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the scales [channels] and zero points [channels] of a weight along axis 0; None where they are others."""
    if weight.target is _OPS.dequantize_per_tensor.default:
        _, scale, zero_point, *_ = weight.args
        assert isinstance(scale, (int, float))
        assert isinstance(zero_point, int)
        return torch.full((channels,), scale), torch.full((channels,), zero_point)
    if weight.target is _OPS.dequantize_per_channel.default and weight.args[3] == 0:
        scales, zero_points = constant_of(model, weight.args[1]), constant_of(model, weight.args[2])
        if scales is not None and zero_points is None and weight.args[2] is None:
            zero_points = torch.zeros(channels, dtype=torch.int64)
        return None if scales is None or zero_points is None else (scales, zero_points)
    return None
