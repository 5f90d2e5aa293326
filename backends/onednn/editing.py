"""A graph that is being lowered: reading calls by the names in their schemas, constants, new nodes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the ops; torch offers no public module
from torch import Tensor, nn
from torch.fx import GraphModule, Node

__all__ = ["Codes", "Editor", "QParams", "call_of", "codes_of", "only_user", "quantize_of"]

_OPS = torch.ops.quantized_decomposed
QUANTIZE, DEQUANTIZE = _OPS.quantize_per_tensor.default, _OPS.dequantize_per_tensor.default


@dataclass(frozen=True, slots=True)
class QParams:
    """The qparams of uint8 codes."""

    scale: float
    zero_point: int
    quant_min: int
    quant_max: int


@dataclass(frozen=True, slots=True)
class Codes:
    """A float tensor that is a dequantize of uint8 codes.

    Attributes:
        node: The codes.
        qparams: What they stand for.
    """

    node: Node
    qparams: QParams


def call_of(node: Node) -> dict[str, Any]:
    """Return a call's arguments by their names in the op's schema, defaults included."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names, defaults = _signature(node.target)
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}


@functools.cache
def _signature(overload: torch._ops.OpOverload) -> tuple[tuple[str, ...], dict[str, Any]]:
    arguments = overload._schema.arguments  # torch offers no public way to an op's argument names
    defaults = {item.name: item.default_value for item in arguments if item.has_default_value()}
    return tuple(item.name for item in arguments), defaults


def only_user(node: Node) -> Node | None:
    """Return the node's one user; None if it has none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def codes_of(value: Any) -> Codes | None:
    """Return what a float tensor is a dequantize of, where that is a uint8 tensor with one scale."""
    if not isinstance(value, Node) or value.target is not DEQUANTIZE or value.kwargs.get("out_dtype") is not None:
        return None
    codes, scale, zero_point, quant_min, quant_max, dtype = value.args
    assert isinstance(codes, Node)
    if dtype is not torch.uint8:
        return None
    return Codes(codes, QParams(scale, zero_point, quant_min, quant_max))  # type: ignore[arg-type]


def quantize_of(node: Node | None) -> QParams | None:
    """Return the qparams of a node that quantizes to uint8 by numbers; None for any other."""
    if node is None or node.target is not QUANTIZE or node.args[5] is not torch.uint8:
        return None
    return QParams(*node.args[1:5])  # type: ignore[arg-type]


class Editor:
    """Changes a graph module.

    Args:
        model: A copy of the user's, whose tensors may be shared with it: none is written into.

    Attributes:
        model: As given.
        graph: Its graph.
    """

    def __init__(self, model: GraphModule) -> None:
        self.model = model
        self.graph = model.graph
        inputs = self.graph.find_nodes(op="placeholder")
        self._last_input = inputs[-1] if inputs else next(iter(self.graph.nodes))

    def calls(self, *targets: torch._ops.OpOverload) -> list[Node]:
        """Return the calls of these overloads, in the graph's order."""
        wanted = frozenset(targets)
        return [node for node in self.graph.nodes if node.op == "call_function" and node.target in wanted]

    def tensor(self, node: Any) -> Tensor | None:
        """Return the tensor that a node reads from the module; None for any other node."""
        if not isinstance(node, Node) or node.op != "get_attr":
            return None
        path, _, name = str(node.target).rpartition(".")
        value = getattr(self.model.get_submodule(path), name)
        return value.detach() if isinstance(value, Tensor) else None

    def constant(self, name: str, tensor: Tensor) -> Node:
        """Register a tensor as a buffer of a new name, and return a node that reads it, at the graph's start."""
        place, number = name, 0
        while hasattr(self.model, place):
            number += 1
            place = f"{name}_{number}"
        self.model.register_buffer(place, tensor)
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            return self.graph.get_attr(place)

    def call(self, before: Node, target: Any, arguments: Sequence[Any], like: Node | None = None) -> Node:
        """Insert a call before a node; it takes the user's line and the shape from `like`."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(target, tuple(arguments))
        if like is not None:
            node.meta.update({key: like.meta[key] for key in _KEPT if key in like.meta})
        return node

    def behind(self, node: Node) -> Node:
        """Return the node before which to insert what reads another as early as may be: inputs stay together."""
        return node.next if node.op == "call_function" else self._last_input.next

    def part(self, node: Node) -> None:
        """Give the module a tensor of its own in place of one that a node reads and the graph writes into."""
        tensor = self.tensor(node)
        if tensor is not None:
            path, _, name = str(node.target).rpartition(".")
            holder = self.model.get_submodule(path)
            if name in holder._buffers:
                holder._buffers[name] = tensor.clone()

    def replace(self, old: Node, new: Node) -> None:
        """Let the users of a node read another; the node goes, with what nobody reads any more."""
        old.replace_all_uses_with(new)
        self.erase(old)

    def erase(self, node: Node) -> None:
        """Remove a node that nobody reads, and then its operands of which that holds."""
        stack = [node]
        while stack:
            last = stack.pop()
            if last.users or last.op not in {"call_function", "get_attr"} or last.graph is not self.graph:
                continue
            operands = list(last.all_input_nodes)
            self.graph.erase_node(last)
            stack.extend(operand for operand in operands if not operand.users)

    def finish(self) -> None:
        """Drop what the graph does not need, nodes and tensors, and make the code anew."""
        self.graph.eliminate_dead_code()
        used = {str(node.target) for node in self.graph.nodes if node.op in {"get_attr", "call_module"}}
        for name, module in list(self.model.named_modules()):
            if any(name == whole or name.startswith(f"{whole}.") for whole in used):
                continue  # a branch of control flow, which reads its own tensors
            for held in _held(module):
                for key in [key for key in held if f"{name}.{key}".lstrip(".") not in used]:
                    del held[key]
                    module._non_persistent_buffers_set.discard(key)
            for key, parameter in module._parameters.items():
                if parameter is not None and parameter.requires_grad:  # integers have no gradient to give
                    module._parameters[key] = nn.Parameter(parameter.detach(), requires_grad=False)
        # What pickle would trace the code with again: torch.export's own tracer cannot.
        self.model._tracer_cls, self.model._tracer_extras = None, {}
        self.graph.lint()
        self.model.recompile()


_KEPT = ("stack_trace", "nn_module_stack", "val")


def _held(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield what maps names to a module's own tensors."""
    yield module._parameters
    yield module._buffers
