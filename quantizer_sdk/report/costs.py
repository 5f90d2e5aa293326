"""What an op costs: the constants that it reads, and the multiplications that it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.observers.create import is_observer_call
from quantizer_sdk.operands import argument
from quantizer_sdk.provenance import value_of
from quantizer_sdk.qdq import is_dequantize, is_quantize
from quantizer_sdk.report.held_tensors import HeldTensors

__all__ = ["Costs", "Macs"]

_ATEN = torch.ops.aten
_CONVS = (_ATEN.conv1d, _ATEN.conv2d, _ATEN.conv3d)
_TRANSPOSED = (_ATEN.conv_transpose1d, _ATEN.conv_transpose2d, _ATEN.conv_transpose3d)

# By packet: the names of the operands of which the product is made.
_PRODUCTS = {
    **dict.fromkeys(_CONVS, ("input", "weight")),
    **dict.fromkeys(_TRANSPOSED, ("input", "weight")),
    _ATEN.convolution: ("input", "weight"),
    _ATEN.linear: ("input", "weight"),
    _ATEN.mm: ("self", "mat2"),
    _ATEN.bmm: ("self", "mat2"),
    _ATEN.matmul: ("self", "other"),
    _ATEN.addmm: ("mat1", "mat2"),
    _ATEN.baddbmm: ("batch1", "batch2"),
    _ATEN.scaled_dot_product_attention: ("query", "key", "value"),
}


@dataclass(frozen=True, slots=True)
class Macs:
    """The multiplications of one op.

    Attributes:
        count: How many, each with an addition.
        open_sizes: Whether a size is open, and its example was taken.
    """

    count: int
    open_sizes: bool = False


class Costs:
    """The costs of the ops of a model, in graph order: a constant counts with the first op that reads it.

    Args:
        held: The model's constant tensors.
    """

    def __init__(self, held: HeldTensors) -> None:
        self._held = held
        self._counted: set[int] = set()
        self._behind: dict[Node, tuple[torch.Tensor, ...]] = {}

    def enter(self, graph: GraphModule) -> None:
        """Find out which constants lie behind the nodes of a graph that compute of constants alone."""
        modules = dict(graph.named_modules())
        for node in graph.graph.nodes:
            tensor = self._held.of(node)
            if tensor is not None:
                self._behind[node] = (tensor,)
            elif is_quantize(node) or is_dequantize(node) or is_observer_call(node, modules):
                source = node.args[0]  # without the scales
                if isinstance(source, Node) and source in self._behind:
                    self._behind[node] = self._behind[source]
            elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
                operands = node.all_input_nodes
                if operands and all(operand in self._behind for operand in operands):
                    tensors = [tensor for operand in operands for tensor in self._behind[operand]]
                    self._behind[node] = tuple(dict.fromkeys(tensors))

    def parameters_of(self, node: Node) -> int:
        """Return the elements of the constants that an op reads and that no op before it has read; 0 for a constant."""
        if node in self._behind:
            return 0
        count = 0
        for operand in node.all_input_nodes:
            for tensor in self._behind.get(operand, ()):
                if id(tensor) not in self._counted:
                    self._counted.add(id(tensor))
                    count += tensor.numel()
        return count

    def macs_of(self, node: Node) -> Macs | None:
        """Return the multiplications of an op; None where it is of another family, or shapes are not known."""
        packet: Any = getattr(node.target, "overloadpacket", None)
        names = _PRODUCTS.get(packet) if node not in self._behind else None
        if names is None:
            return None
        shapes = [self._shape(argument(node, name)) for name in names]
        result = self._shape(node)
        if result is None or any(shape is None for shape in shapes):
            return None
        sizes = [_Sizes(shape) for shape in (*shapes, result) if shape is not None]
        try:
            count = _count(packet, node, [each.values for each in sizes])
        except (IndexError, ValueError):  # a form of the op that is not known here
            return None
        return Macs(count, any(each.open for each in sizes))

    def _shape(self, node: Any) -> Sequence[Any] | None:
        while isinstance(node, Node):
            value = value_of(node)
            if isinstance(value, torch.Tensor):
                return tuple(value.shape)
            if (tensor := self._held.of(node)) is not None:
                return tuple(tensor.shape)
            if not (is_quantize(node) or is_dequantize(node) or node.op == "call_module"):
                return None
            node = node.args[0] if node.args else None
        return None


class _Sizes:
    """A shape as numbers: an open size is that of the example."""

    def __init__(self, shape: Sequence[Any]) -> None:
        self.open = not all(isinstance(size, int) for size in shape)
        self.values = [size if isinstance(size, int) else _example(size) for size in shape]


def _example(size: Any) -> int:
    node = getattr(size, "node", None)
    hint = getattr(node, "hint", None)
    if not isinstance(hint, int):
        message = f"{size} has no example"
        raise ValueError(message)  # noqa: TRY004  # told apart by no caller
    return hint


def _count(packet: Any, node: Node, shapes: list[list[int]]) -> int:
    first, second, result = shapes[0], shapes[1], shapes[-1]
    if packet in _TRANSPOSED or (packet is _ATEN.convolution and argument(node, "transposed")):
        return math.prod(first) * math.prod(second[1:])
    if packet in _CONVS or packet is _ATEN.convolution:
        return math.prod(result) * math.prod(second[1:])
    if packet is _ATEN.scaled_dot_product_attention:
        scores = math.prod(first[:-1]) * second[-2]
        return scores * (first[-1] + shapes[2][-1])
    return math.prod(result) * first[-1]
