"""The pieces that integer arithmetic is written from: dequantized operands seen as codes, and a builder of calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from quantizer_sdk.constants import erase_unused
from quantizer_sdk.provenance import value_of
from quantizer_sdk.qdq import Layout

__all__ = ["Builder", "IntegerTensor", "Number"]

_ATEN = torch.ops.aten
_OPS = torch.ops.quantized_decomposed

_LAYOUTS = {
    op: layout for layout in (Layout.PER_TENSOR, Layout.PER_TENSOR_NODES, Layout.PER_CHANNEL) for op in layout.value
} | {_OPS.dequantize_per_token.default: Layout.PER_TOKEN}

Number = float | Node
"""A number, or the node of a tensor."""


class Builder:
    """Appends calls to a graph, each with the provenance of the op that it helps to compute."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._meta: dict[str, Any] = {}

    @contextlib.contextmanager
    def at(self, node: Node, *, like: Node) -> Iterator[None]:
        """Append before a node, for the block."""
        self._meta = {key: value for key, value in like.meta.items() if key != "val"}
        with self._graph.inserting_before(node):
            yield

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Node:
        """Call an op."""
        node = self._graph.call_function(op, args, kwargs)
        node.meta.update(self._meta)
        return node

    def to(self, tensor: Node, dtype: Any) -> Node:
        """Convert a tensor."""
        return self.call(_ATEN._to_copy.default, tensor, dtype=dtype)

    def multiply(self, one: Any, other: Any) -> Any:
        """Multiply numbers and tensors; numbers with each other now, in float64."""
        if not isinstance(one, Node) and not isinstance(other, Node):
            return float(one) * float(other)
        tensor, factor = (one, other) if isinstance(one, Node) else (other, one)
        if isinstance(factor, Node):
            return self.call(_ATEN.mul.Tensor, tensor, factor)
        return self.call(_ATEN.mul.Scalar, tensor, factor)

    def add(self, tensor: Node, other: Any, sign: int = 1) -> Node:
        """Add a tensor or a number, or subtract it."""
        if isinstance(other, Node):
            return self.call(_ATEN.add.Tensor if sign > 0 else _ATEN.sub.Tensor, tensor, other)
        return self.call(_ATEN.add.Scalar, tensor, sign * other)

    def inverse(self, scale: Number) -> Number:
        """Return 1 / scale, in float64 for numbers and for tensors of one element, else in the tensor's own type."""
        return self.call(_ATEN.reciprocal.default, scale) if isinstance(scale, Node) else 1.0 / scale

    def replace(self, node: Node, result: Node) -> None:
        """Let the users of a node read another; what only that node needed goes."""
        if "val" in node.meta:
            result.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(result)
        erase_unused(node)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerTensor:
    """What a dequantize yields, as codes: real = scale * (codes - zero_point).

    Attributes:
        codes: Integer tensor.
        scale: A number; per channel or computed at run time, the node of a tensor.
        zero_point: The same.
        axis: The channel axis; None for one scale, and for scales along the last axis that broadcast by themselves.
        rank: The tensor's rank, per channel.
        out_dtype: The float type of the dequantized tensor.
    """

    codes: Node
    scale: Number
    zero_point: Number
    axis: int | None
    rank: int | None
    out_dtype: torch.dtype

    @classmethod
    def of(cls, node: Any) -> IntegerTensor | None:
        """Return what a node dequantizes, or what a quantize yields; None for any other node and for scales by block.

        The `codes` of a quantize are the float tensor that it reads.
        """
        if not isinstance(node, Node) or node.target not in _LAYOUTS:
            return None
        codes, scale, zero_point, *rest = node.args
        out_dtype = node.kwargs.get("out_dtype") or torch.float32
        axis = rank = None
        if _LAYOUTS[node.target] is Layout.PER_CHANNEL:
            known = [value for value in (value_of(node), value_of(codes)) if isinstance(value, torch.Tensor)]  # type: ignore[arg-type]
            if not known:
                return None
            axis, rank = rest[0], known[0].dim()
        elif node.target is _OPS.dequantize_per_token.default:
            out_dtype = rest[-1]  # type: ignore[assignment]
        return cls(codes=codes, scale=scale, zero_point=zero_point, axis=axis, rank=rank, out_dtype=out_dtype)  # type: ignore[arg-type]

    def steps(self, builder: Builder) -> Number:
        """Return the scale in float64."""
        return builder.to(self.scale, torch.float64) if isinstance(self.scale, Node) else self.scale

    def laid_out(self, builder: Builder, qparam: Number, dtype: torch.dtype) -> Number:
        """Return a qparam as it is if it is a number; else converted, one a channel along the channel axis."""
        if not isinstance(qparam, Node):
            return qparam
        if self.axis is None:
            return builder.to(qparam, dtype)
        shape = [-1 if axis == self.axis else 1 for axis in range(self.rank or 0)]
        return builder.call(_ATEN.reshape.default, builder.to(qparam, dtype), shape)

    def centred(self, builder: Builder) -> Node:
        """Return codes - zero_point, int32."""
        wide = builder.to(self.codes, torch.int32)
        zero_point = self.laid_out(builder, self.zero_point, torch.int32)
        return wide if zero_point == 0 else builder.add(wide, zero_point, sign=-1)
