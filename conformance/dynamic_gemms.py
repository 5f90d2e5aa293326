"""A converted graph read as gemms that quantize their activation at run time, and what else computes in it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from quantizer_sdk.conformance.kernels import attribute

__all__ = ["DynamicGemm", "computing", "dynamic_gemms", "observed", "rows_of"]

aten = torch.ops.aten
_NAMESPACES = ("quantized_decomposed.", "quantizer_sdk.")
_CLAMPS = frozenset(
    {
        aten.relu.default,
        aten.relu_.default,
        aten.relu6.default,
        aten.relu6_.default,
        aten.hardtanh.default,
        aten.hardtanh_.default,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.clamp_max.default,
    }
)
_OPERANDS = {  # the positions of activation, weight and bias
    aten.linear.default: (0, 1, 2),
    aten.addmm.default: (1, 2, 0),
    aten.mm.default: (0, 1, None),
    aten.matmul.default: (0, 1, None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicGemm:
    """A gemm of run-time qparams, from the op that chooses them to the last clamp that its kernel computes too.

    Attributes:
        choose: The op that chooses scales and zero points.
        quantize: The quantize of the activation.
        node: The gemm.
        weight: The dequantize of its weight.
        clamps: The ops behind it that limit its result, in order.
    """

    choose: Node
    quantize: Node
    node: Node
    weight: Node
    clamps: tuple[Node, ...] = ()

    @property
    def output(self) -> Node:
        """What gives its result."""
        return self.clamps[-1] if self.clamps else self.node

    @property
    def targets(self) -> tuple[Any, ...]:
        """The overloads of its ops."""
        return tuple(node.target for node in (self.node, *self.clamps))

    @property
    def code_range(self) -> tuple[int, int]:
        """The smallest and the largest code of the activation."""
        place = 4 if "per_block" in str(self.quantize.target) else 3
        low, high = (int(str(end)) for end in self.quantize.args[place : place + 2])
        return low, high

    @property
    def smallest_scale(self) -> float:
        """The floor that the graph puts under its scales."""
        if "per_token" in str(self.choose.target):
            return torch.finfo(torch.float32).eps  # the op has it built in
        place = 4 if "per_block" in str(self.choose.target) else 3
        return float(str(self.choose.args[place]))

    @property
    def channel_axis(self) -> int:
        """The axis of output channels in its result."""
        return -1 if self.node.target in _OPERANDS else 1

    @property
    def weight_axis(self) -> int:
        """The axis of output channels in its weight."""
        if self.node.target is aten.linear.default:
            return 0
        return int(self.node.target in _OPERANDS or "transpose" in str(self.node.target))

    @property
    def is_linear(self) -> bool:
        """Whether it multiplies matrices, so that its rows run along the last axis."""
        return self.node.target in _OPERANDS

    def own_axes(self, rank: int) -> int | None:
        """Return how many of the activation's first axes have qparams for each index.

        All but the last for rows of a matrix product, one for the samples of a batch, 0 for the whole tensor; None
        where blocks are of another kind.
        """
        name = str(self.choose.target)
        if "per_token" in name:
            return rank - 1
        if "per_block" not in name:
            return 0
        block: Any = self.choose.args[1]
        own = next((place for place, size in enumerate(block) if size != 1), rank)
        return own if all(size == -1 for size in block[own:]) else None

    def bias(self, model: GraphModule) -> Tensor | None:
        """Return the float32 bias, with axes of length 1 behind the channels; None without one."""
        place = _OPERANDS.get(self.node.target, (0, 1, 2))[2]  # type: ignore[call-overload]
        node = self.node.args[place] if place is not None and place < len(self.node.args) else None
        if not isinstance(node, Node):
            return None
        value: Tensor = attribute(model, node).detach()
        return value.reshape(-1, *(1,) * self.axes_behind(model))

    def axes_behind(self, model: GraphModule) -> int:
        """Return how many axes its result has behind that of the channels."""
        if self.channel_axis == -1:
            return 0
        (codes,) = (attribute(model, node) for node in self.weight.all_input_nodes[:1])
        return int(codes.dim()) - 2

    def __call__(self, activation: Tensor, weight: Tensor) -> Tensor:
        """Evaluate the gemm alone, without bias, on tensors of any float type."""
        if self.node.target is aten.addmm.default:
            return activation @ weight
        args = list(self.node.args)
        args[:2] = activation, weight
        if len(args) > 2 and self.node.target not in (aten.mm.default, aten.matmul.default):
            args[2] = None
        target: Callable[..., Tensor] = self.node.target  # type: ignore[assignment]
        return target(*args)

    def clamped(self, value: Tensor) -> Tensor:
        """Evaluate the clamps behind it."""
        for node in self.clamps:
            target: Callable[..., Tensor] = node.target  # type: ignore[assignment]
            value = target(value.clone(), *node.args[1:], **node.kwargs)
        return value


def rows_of(tensor: Tensor, own: int) -> Tensor:
    """Return a tensor as a matrix with a row for each index of its first `own` axes."""
    return tensor.reshape(tensor.shape[:own].numel(), -1)


def computing(model: GraphModule) -> Iterator[Node]:
    """Yield the nodes that compute on float tensors: not those that quantize, choose qparams, or ask for a size."""
    for node in model.graph.nodes:
        name = str(node.target)
        plain = not name.startswith(_NAMESPACES) and node.target is not operator.getitem and "sym_size" not in name
        if node.op == "call_function" and plain:
            yield node


def dynamic_gemms(model: GraphModule) -> tuple[DynamicGemm, ...]:
    """Read a converted graph; gemms in graph order."""
    return tuple(found for found in map(_gemm, computing(model)) if found is not None)


def _gemm(node: Node) -> DynamicGemm | None:
    is_gemm = node.target in _OPERANDS or str(node.target).startswith("aten.conv")
    if not is_gemm:
        return None
    first, second = _OPERANDS.get(node.target, (0, 1, 2))[:2]  # type: ignore[call-overload]
    activation, weight = node.args[first], node.args[second]
    if not (_is_dequantize(activation) and _is_dequantize(weight)):
        return None
    quantize = activation.args[0]
    choose = _chosen_by(quantize) if isinstance(quantize, Node) else None
    stored = weight.args[0]
    if choose is None or not isinstance(stored, Node) or stored.op != "get_attr":
        return None
    clamps: list[Node] = []
    while True:
        last = clamps[-1] if clamps else node
        user = next(iter(last.users), None)
        if len(last.users) != 1 or user is None or user.target not in _CLAMPS:
            break
        clamps.append(user)
    return DynamicGemm(choose=choose, quantize=quantize, node=node, weight=weight, clamps=tuple(clamps))


def _is_dequantize(node: object) -> bool:
    name = str(node.target) if isinstance(node, Node) else ""
    return name.startswith(tuple(f"{namespace}dequantize_per_" for namespace in _NAMESPACES))


def _chosen_by(quantize: Node) -> Node | None:
    """Return the op that chooses a quantize's qparams at run time; None where they are stored."""
    for operand in quantize.all_input_nodes[1:]:
        source = operand.args[0] if operand.target is operator.getitem else None
        if isinstance(source, Node) and "choose_qparams" in str(source.target):
            return source
    return None


class _Keeping(Interpreter):
    """Runs a graph and keeps every value."""

    def __init__(self, model: GraphModule) -> None:
        super().__init__(model, garbage_collect_values=False)
        self.kept: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        self.kept[n] = result.clone() if isinstance(result, Tensor) else result
        return result


def observed(model: GraphModule, inputs: Sequence[Tensor]) -> dict[Node, Any]:
    """Run a converted graph eagerly; return the value of each node."""
    keeping = _Keeping(model)
    with torch.no_grad():
        keeping.run(*[tensor.clone() for tensor in inputs])
    return keeping.kept
