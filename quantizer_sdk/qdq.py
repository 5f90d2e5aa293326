"""The quantize and dequantize ops, as one table: the overloads for each layout of qparams, and their arguments.

The ops are `torch.ops.quantized_decomposed.*`, in the overloads and argument layouts that ExecuTorch, inductor and
torch's ONNX exporter recognise. torch registers them in a private module; once it offers a public one, or drops
them, this file is the one to change.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the ops
from torch.fx import Graph, Node

from quantizer_sdk.block_ops import CHOOSE_QPARAMS_PER_BLOCK, DEQUANTIZE_PER_BLOCK, QUANTIZE_PER_BLOCK
from quantizer_sdk.dtypes import is_cast

__all__ = [
    "CAST_OP",
    "CHOOSE_QPARAMS_OPS",
    "DEQUANTIZE_OPS",
    "QUANTIZE_OPS",
    "Layout",
    "QParams",
    "emit_cast",
    "emit_choose_qparams",
    "emit_dequantize",
    "emit_quantize",
    "is_dequantize",
    "is_narrowing_cast",
    "is_quantize",
    "quantize",
]

_OPS = torch.ops.quantized_decomposed

CAST_OP = _OPS.convert_element_type.no_fuse
"""Rounds to another float type and back; compilers do not take the pair for a no-op."""


class Layout(Enum):
    """How the qparams of a tensor are given: (quantize op, dequantize op)."""

    PER_TENSOR = (_OPS.quantize_per_tensor.default, _OPS.dequantize_per_tensor.default)
    """Numbers in the graph."""
    PER_TENSOR_NODES = (_OPS.quantize_per_tensor.tensor, _OPS.dequantize_per_tensor.tensor)
    """Tensors of one element: buffers, or computed from each run's data."""
    PER_CHANNEL = (_OPS.quantize_per_channel.default, _OPS.dequantize_per_channel.default)
    """Tensors [channels], and an axis."""
    PER_GROUP = (_OPS.quantize_per_channel_group.default, _OPS.dequantize_per_channel_group.default)
    """Tensors [rows, groups] for a matrix, and a group size."""
    PER_TOKEN = (_OPS.quantize_per_token.default, _OPS.dequantize_per_token.default)
    """Tensors [..., 1], computed from each run's data."""
    PER_BLOCK = (QUANTIZE_PER_BLOCK, DEQUANTIZE_PER_BLOCK)
    """Tensors of the grid's shape, stored or computed from each run's data, and a block size."""


QUANTIZE_OPS = frozenset({layout.value[0] for layout in Layout} | {_OPS.quantize_per_tensor.tensor2})
DEQUANTIZE_OPS = frozenset({layout.value[1] for layout in Layout} | {_OPS.dequantize_per_tensor.tensor2})

# By layout and whether the scheme is symmetric.
_CHOOSE = {
    (Layout.PER_TENSOR_NODES, False): _OPS.choose_qparams.tensor,
    (Layout.PER_TENSOR_NODES, True): _OPS.choose_qparams_symmetric.tensor,
    (Layout.PER_TOKEN, False): _OPS.choose_qparams_per_token_asymmetric.default,
    (Layout.PER_TOKEN, True): _OPS.choose_qparams_per_token.default,
    (Layout.PER_BLOCK, False): CHOOSE_QPARAMS_PER_BLOCK,
}
CHOOSE_QPARAMS_OPS = frozenset(_CHOOSE.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class QParams:
    """The quantization parameters of one tensor.

    Attributes:
        layout: How they are given.
        scale: A number, the node of a tensor, or the tensor.
        zero_point: The same.
        quant_min: Smallest code.
        quant_max: Largest code.
        dtype: Type of the tensor of codes.
        ch_axis: The channel axis, per channel.
        block_size: The size of a block along each axis, per group and per block; -1, per block, takes a whole axis.
    """

    layout: Layout
    scale: float | Node | torch.Tensor
    zero_point: int | Node | torch.Tensor
    quant_min: int
    quant_max: int
    dtype: torch.dtype
    ch_axis: int | None = None
    block_size: tuple[int, ...] = ()

    def arguments(self) -> tuple[Any, ...]:
        """Return the operands that follow the tensor, the same for quantize and dequantize."""
        codes = (self.quant_min, self.quant_max, self.dtype)
        if self.layout is Layout.PER_BLOCK:
            return (list(self.block_size), self.scale, self.zero_point, *codes)
        if self.layout is Layout.PER_CHANNEL:
            return (self.scale, self.zero_point, self.ch_axis, *codes)
        if self.layout is Layout.PER_GROUP:
            return (self.scale, self.zero_point, *codes, self.block_size[-1])
        return (self.scale, self.zero_point, *codes)


def is_quantize(node: Node) -> bool:
    """Whether a node turns a float tensor into codes."""
    return node.op == "call_function" and node.target in QUANTIZE_OPS


def is_dequantize(node: Node) -> bool:
    """Whether a node turns codes into a float tensor."""
    return node.op == "call_function" and node.target in DEQUANTIZE_OPS


def is_narrowing_cast(node: Node) -> bool:
    """Whether a node is the first of a pair of casts: the one that rounds."""
    return (
        node.op == "call_function"
        and node.target is CAST_OP
        and is_cast(node.args[1])  # type: ignore[arg-type]  # the op's second operand is a dtype
        and node.all_input_nodes[0].target is not CAST_OP
    )


def quantize(tensor: torch.Tensor, qparams: QParams) -> torch.Tensor:
    """Quantize a tensor now, by qparams whose scale and zero point are numbers or tensors."""
    codes: torch.Tensor = qparams.layout.value[0](tensor, *qparams.arguments())
    return codes


def emit_quantize(graph: Graph, tensor: Node, qparams: QParams) -> Node:
    """Append the quantize op of `qparams` at the graph's insertion point."""
    return graph.call_function(qparams.layout.value[0], (tensor, *qparams.arguments()))


def emit_dequantize(graph: Graph, codes: Node, qparams: QParams, out_dtype: torch.dtype | None = None) -> Node:
    """Append the dequantize op of `qparams`; `out_dtype` is the float type to return, None for float32."""
    arguments = (codes, *qparams.arguments())
    if qparams.layout in {Layout.PER_GROUP, Layout.PER_TOKEN}:
        return graph.call_function(qparams.layout.value[1], (*arguments, out_dtype or torch.float32))
    keywords: dict[str, Any] = {} if out_dtype in (None, torch.float32) else {"out_dtype": out_dtype}
    return graph.call_function(qparams.layout.value[1], arguments, keywords)


def emit_choose_qparams(
    graph: Graph,
    tensor: Node,
    layout: Layout,
    *,
    symmetric: bool,
    quant_min: int,
    quant_max: int,
    eps: float,
    dtype: torch.dtype,
    block_size: tuple[int, ...] = (),
) -> tuple[Node, Node]:
    """Append the op that computes qparams from a tensor at run time, and return scale and zero point.

    Per token the op set fixes the rest: int8, all 256 codes affine, -127..127 symmetric. Per block there is no
    symmetric form.
    """
    rest: tuple[Any, ...] = (dtype,) if layout is Layout.PER_TOKEN else (quant_min, quant_max, eps, dtype)
    block = (list(block_size),) if layout is Layout.PER_BLOCK else ()
    chosen = graph.call_function(_CHOOSE[layout, symmetric], (tensor, *block, *rest))
    scale, zero_point = (graph.call_function(operator.getitem, (chosen, index)) for index in (0, 1))
    return scale, zero_point


def emit_cast(graph: Graph, tensor: Node, dtype: torch.dtype) -> Node:
    """Append the op that rounds to another float type."""
    return graph.call_function(CAST_OP, (tensor, dtype))
