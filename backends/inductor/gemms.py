"""Which products of a converted graph inductor can fuse into an integer kernel, and why it cannot the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backend import source_line
from quantizer_sdk.backends.onednn.saturation import pairs_fit, sums_saturate
from quantizer_sdk.backends.qdq_forms.gemm_weights import GEMMS, TRANSPOSED_CONVOLUTIONS, is_dequantize, weight_of
from quantizer_sdk.backends.qdq_forms.new_nodes import constant_of

__all__ = ["Gemm", "find_gemms"]

_aten = torch.ops.aten
_OPS = torch.ops.quantized_decomposed
_CONV3D = frozenset({_aten.conv3d.default, _aten.conv3d.padding})
_LINEARS = frozenset({_aten.linear.default, _aten.mm.default, _aten.addmm.default, _aten.matmul.default})
_STATIC = _OPS.dequantize_per_tensor.default
_AT_RUN_TIME = _OPS.dequantize_per_tensor.tensor


@dataclass(frozen=True, slots=True)
class Gemm:
    """A convolution or matrix product with a quantized weight.

    Attributes:
        name: Its node's name.
        op: Its overload, such as "aten.conv2d.default".
        source: The user's line, "file:line: code"; "" if unknown.
        obstacle: Why no integer kernel can take it; None where one can.
    """

    name: str
    op: str
    source: str
    obstacle: str | None

    def describe(self, reason: str) -> str:
        """Name it and say why it computes in float."""
        place = f" from {self.source}" if self.source else ""
        return f"{self.name} ({self.op}){place}: {reason}"


def find_gemms(model: GraphModule) -> dict[Node, Gemm]:
    """Return the products that have a constant, quantized weight, in graph order.

    Args:
        model: A graph in normal form.
    """
    found = ((node, weight_of(node)) for node in model.graph.nodes if node.target in GEMMS)
    return {
        node: Gemm(node.name, str(node.target), source_line(node), _obstacle(model, node, weight))
        for node, weight in found
        if weight is not None
    }


def _obstacle(model: GraphModule, gemm: Node, weight: Node) -> str | None:
    """Return why inductor has no integer kernel for this."""
    if gemm.target in TRANSPOSED_CONVOLUTIONS or gemm.target in _CONV3D:
        return f"inductor has no integer kernel for {gemm.target}"
    activation = gemm.args[1 if gemm.target is _aten.addmm.default else 0]
    if not is_dequantize(activation):
        return "its activation is not quantized"
    assert isinstance(activation, Node)
    if activation.target is not _STATIC and not (activation.target is _AT_RUN_TIME and gemm.target in _LINEARS):
        return f"its activation comes from {activation.target}, which inductor does not fuse into {gemm.target}"
    if activation.args[5] is not torch.uint8:
        return f"its activation has {activation.args[5]} codes; inductor takes torch.uint8"
    largest_code: Any = activation.args[4]
    return _weight_obstacle(model, weight, largest_code)


def _weight_obstacle(model: GraphModule, weight: Node, largest_code: int) -> str | None:
    """Return why inductor has no integer kernel for a weight like this, under activations up to a code."""
    if weight.target is not _OPS.dequantize_per_channel.default or weight.args[3] != 0:
        return "its weight has no scale for each output channel"
    zero_points = constant_of(model, weight.args[2])
    if weight.args[6] is not torch.int8 or zero_points is None or bool(zero_points.any()):
        return "its weight is not int8 with zero point 0, and its codes do not fit in that form"
    codes = constant_of(model, weight.args[0])
    if codes is not None and sums_saturate() and not pairs_fit(codes, largest_code):
        return "this CPU sums products by its 8-bit weights with loss; 7-bit weights fit"
    return None
