"""The quantize and dequantize ops, as one table: which overload stands for which granularity, and its arguments.

The ops are `torch.ops.quantized_decomposed.*`, in the overloads and argument layouts that ExecuTorch, inductor and
torch's ONNX exporter recognise. torch registers them in a private module; once it offers a public one, or drops
them, this file is the one to change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the ops
from torch.fx import Graph, Node

__all__ = [
    "DEQUANTIZE_OPS",
    "QUANTIZE_OPS",
    "QParams",
    "emit_dequantize",
    "emit_quantize",
    "is_dequantize",
    "is_quantize",
]

_OPS = torch.ops.quantized_decomposed

QUANTIZE_OPS = frozenset(
    {
        _OPS.quantize_per_tensor.default,
        _OPS.quantize_per_tensor.tensor,
        _OPS.quantize_per_tensor.tensor2,
        _OPS.quantize_per_channel.default,
        _OPS.quantize_per_channel_group.default,
        _OPS.quantize_per_token.default,
    }
)
DEQUANTIZE_OPS = frozenset(
    {
        _OPS.dequantize_per_tensor.default,
        _OPS.dequantize_per_tensor.tensor,
        _OPS.dequantize_per_tensor.tensor2,
        _OPS.dequantize_per_channel.default,
        _OPS.dequantize_per_channel_group.default,
        _OPS.dequantize_per_token.default,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QParams:
    """The quantization parameters of one tensor.

    Attributes:
        scale: A number per tensor; per channel, the get_attr node of a float32 tensor [channels].
        zero_point: A number per tensor; per channel, the get_attr node of an int64 tensor [channels].
        quant_min: Smallest code.
        quant_max: Largest code.
        dtype: Integer type of the codes.
        ch_axis: The channel axis; None per tensor.
    """

    scale: float | Node
    zero_point: int | Node
    quant_min: int
    quant_max: int
    dtype: torch.dtype
    ch_axis: int | None = None

    def arguments(self) -> tuple[Any, ...]:
        """Return the operands that follow the tensor, the same for quantize and dequantize."""
        axis = () if self.ch_axis is None else (self.ch_axis,)
        return (self.scale, self.zero_point, *axis, self.quant_min, self.quant_max, self.dtype)


def is_quantize(node: Node) -> bool:
    """Whether a node turns a float tensor into codes."""
    return node.op == "call_function" and node.target in QUANTIZE_OPS


def is_dequantize(node: Node) -> bool:
    """Whether a node turns codes into a float tensor."""
    return node.op == "call_function" and node.target in DEQUANTIZE_OPS


def emit_quantize(graph: Graph, tensor: Node, qparams: QParams) -> Node:
    """Append the quantize op of `qparams` at the graph's insertion point."""
    op = _OPS.quantize_per_tensor.default if qparams.ch_axis is None else _OPS.quantize_per_channel.default
    return graph.call_function(op, (tensor, *qparams.arguments()))


def emit_dequantize(graph: Graph, codes: Node, qparams: QParams, out_dtype: torch.dtype | None = None) -> Node:
    """Append the dequantize op of `qparams`; `out_dtype` is the float type to return, None for float32."""
    op = _OPS.dequantize_per_tensor.default if qparams.ch_axis is None else _OPS.dequantize_per_channel.default
    keywords: dict[str, Any] = {} if out_dtype in (None, torch.float32) else {"out_dtype": out_dtype}
    return graph.call_function(op, (codes, *qparams.arguments()), keywords)
