"""Linear layers of the same codes, such as an attention's projections: one product in the place of several.

Each column of a product is computed by itself, from sums of integers: joining weights changes no bit of any. What is
saved is the way to the kernel and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from quantizer_sdk.backends.onednn.bindings import Binding, reads_numbers
from quantizer_sdk.backends.onednn.linear_op import LINEAR, bound_linear, linear
from quantizer_sdk.backends.onednn.run_time_ops import LINEAR_AT_RUN_TIME, bound_linear_at_run_time, linear_at_run_time

__all__ = ["Join", "joined_linears"]

_ATEN = torch.ops.aten
_VIEWS = frozenset({_ATEN.view.default, _ATEN.reshape.default, _ATEN.transpose.int, _ATEN.permute.default})
_OTHER: Mapping[Any, int] = {linear: 12, linear_at_run_time: 9}
"""Where the operands have the tensor that is added."""
_ATTENTION = _ATEN.scaled_dot_product_attention.default  # of its operands, only the last axis must lie in order


@dataclass(frozen=True, slots=True)
class Join:
    """Linear layers that are computed as one.

    Attributes:
        nodes: Theirs, in order.
        whole: Stands for all results together; it is in no graph of a module.
        binding: How these are computed.
    """

    nodes: tuple[Node, ...]
    whole: Node
    binding: Binding


def joined_linears(graph: Graph, constants: Mapping[Node, Any]) -> tuple[Join, ...]:
    """Return the linear layers of a lowered graph that attention reads and that can be computed as one.

    Args:
        graph: The graph.
        constants: What its nodes read from the module.
    """
    groups: dict[Any, list[Node]] = {}
    for target, other in _OTHER.items():
        for node in graph.find_nodes(op="call_function", target=target):
            x, bias = node.args[0], node.args[5]
            read = [operand in constants for operand in (*node.args[3:5], bias) if operand is not None]
            numbers = target is linear or reads_numbers(node)
            if isinstance(x, Node) and node.args[other] is None and all(read) and numbers and _is_for_attention(node):
                rest = (*node.args[1:3], bias is None, *_hashable(node.args[6:]))
                groups.setdefault((target, x, *rest), []).append(node)
    return tuple(_join(nodes, constants) for nodes in groups.values() if len(nodes) > 1)


def _hashable(operands: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(tuple(operand) if isinstance(operand, list) else operand for operand in operands)


def _is_for_attention(node: Node) -> bool:
    """Whether only attention reads a node, or views that only attention reads."""
    return all(_is_attention(user) for user in node.users)


def _is_attention(user: Node) -> bool:
    """Whether a node is attention, or a view that one reads."""
    while user.target in _VIEWS and len(user.users) == 1:
        user = next(iter(user.users))
    return user.target is _ATTENTION


def _join(nodes: Sequence[Node], constants: Mapping[Node, Any]) -> Join:
    def read(place: int) -> list[Any]:
        return [constants.get(node.args[place]) for node in nodes]  # type: ignore[arg-type]

    first, (weights, scales, biases) = nodes[0], (read(3), read(4), read(5))
    operands = (torch.cat(weights), torch.cat(scales), None if first.args[5] is None else torch.cat(biases))
    arguments: tuple[Any, ...] = (*first.args[:3], *operands, *first.args[6:])
    if first.target is linear:
        bound: tuple[Any, ...] = (*arguments[1:-3], *arguments[-2:])
        op, function, read_now = LINEAR, bound_linear(*bound), arguments[:1]
    else:
        op, function = LINEAR_AT_RUN_TIME, bound_linear_at_run_time(*arguments[3:-1])
        read_now = (arguments[0], None, *arguments[1:3])
    split = _split(function, [len(weight) for weight in weights])
    whole = Graph().placeholder("joined")
    whole.meta.update(first.meta)
    parts = tuple(tensor for tensor in (*weights, *scales, *biases) if tensor is not None)
    return Join(tuple(nodes), whole, Binding(op, arguments, split, read_now, {}, parts))


def _split(function: Callable[..., Tensor], sizes: Iterable[int]) -> Callable[..., Sequence[Tensor]]:
    lengths = list(sizes)
    return lambda *operands: torch.split(function(*operands), lengths, -1)
