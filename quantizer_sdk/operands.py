"""The operands of an aten call, read by the names in its schema: the only place that knows positions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Graph, Node

__all__ = [
    "argument",
    "give_by_position",
    "is_written",
    "overwriting_users",
    "replace_argument",
    "tensor_operands",
    "writes_state",
]


@functools.cache  # one entry an overload in use
def _arguments(overload: torch._ops.OpOverload) -> tuple[tuple[str, str, Any], ...]:
    """(name, type, default) of every argument."""
    return tuple(
        (item.name, str(item.type), item.default_value if item.has_default_value() else None)
        for item in overload._schema.arguments
    )


def argument(node: Node, name: str) -> Any:
    """Return the value that a call of an aten overload gives to an argument, or the argument's default.

    Raises:
        KeyError: The overload has no such argument.
    """
    assert isinstance(node.target, torch._ops.OpOverload)
    for position, (candidate, _kind, default) in enumerate(_arguments(node.target)):
        if candidate == name:
            if position < len(node.args):
                return node.args[position]
            return node.kwargs.get(name, default)
    message = f"{node.target} has no argument {name!r}"
    raise KeyError(message)


def replace_argument(node: Node, name: str, value: Any) -> None:
    """Give an argument of a call another value."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [candidate for candidate, _kind, _default in _arguments(node.target)]
    position = names.index(name)
    if position < len(node.args):
        node.args = (*node.args[:position], value, *node.args[position + 1 :])
    elif position == len(node.args) and name not in node.kwargs:
        node.args = (*node.args, value)
    else:
        node.kwargs = {**node.kwargs, name: value}


def give_by_position(node: Node) -> None:
    """Let a call give by position what it gives by name, as far as its overload takes it so."""
    assert isinstance(node.target, torch._ops.OpOverload)
    items = node.target._schema.arguments
    count = sum(1 for item in items if not item.kwarg_only)
    last = max((index for index, item in enumerate(items[:count]) if item.name in node.kwargs), default=-1)
    if last >= len(node.args):
        node.args = tuple(argument(node, item.name) for item in items[: last + 1])
        node.kwargs = {
            name: value for name, value in node.kwargs.items() if name not in {i.name for i in items[: last + 1]}
        }


def tensor_operands(node: Node) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield (argument name, values) for every tensor argument, in schema order.

    A list argument, such as cat's, has all its elements as values; an optional one that is absent has none. A value
    is a Node, or a Python number that the user wrote in a tensor's place.
    """
    assert isinstance(node.target, torch._ops.OpOverload)
    for name, kind, _default in _arguments(node.target):
        if "Tensor" not in kind:
            continue
        value = argument(node, name)
        if kind.startswith("List"):
            yield name, tuple(value)
        else:
            yield name, () if value is None else (value,)


def is_written(tensor: Node) -> bool:
    """Whether an op changes a tensor in place, through views of it too."""
    return any(writes for _user, _op, writes in _uses(tensor))


def overwriting_users(graph: Graph) -> dict[Node, set[Node]]:
    """Return, for each tensor that is changed in place and read afterwards, the users that change it, O(nodes + edges).

    They, and views through which others change it, must get the tensor itself: what they wrote into a copy, nobody
    would read. A tensor that is only read through what they return, as behind `relu_`, is none of these.
    """
    changed: dict[Node, None] = {}
    for node in graph.nodes:
        if not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable):
            continue
        frontier = [operand for operand in node.all_input_nodes if (it := _alias(node, operand)) and it.is_write]
        while frontier:
            tensor = frontier.pop()
            if tensor not in changed:
                changed[tensor] = None
                frontier += [operand for operand in tensor.all_input_nodes if _alias(tensor, operand)]
    found = ((tensor, _overwriting_users(tensor)) for tensor in changed)
    return {tensor: users for tensor, users in found if users}


def _overwriting_users(tensor: Node) -> set[Node]:
    uses = list(_uses(tensor))
    written = [op for _user, op, writes in uses if writes]
    if not written or not any(op > min(written) for _user, op, writes in uses if not writes):
        return set()
    return {user for user, _op, writes in uses if writes}


def writes_state(node: Node) -> bool:
    """Whether an op writes in place into what outlives a run: a buffer, or an input."""
    if not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable):
        return False
    base: Node | None = node
    while base is not None:
        node, base = base, next((operand for operand in base.all_input_nodes if _alias(base, operand)), None)
    return node.op in {"get_attr", "placeholder"}


def _uses(tensor: Node) -> Iterator[tuple[Node, Node, bool]]:
    """Yield (user, op, whether it writes) for all that use a tensor's memory; the op is the user, or behind views."""
    for user in tensor.users:
        alias = _alias(user, tensor)
        if alias is None or alias.is_write:
            yield user, user, alias is not None
        else:
            yield from ((user, op, writes) for _view, op, writes in _uses(user))


def _alias(user: Node, tensor: Node) -> Any:
    """Return how an op's schema says that its result shares an operand's memory, or that it writes there, or None."""
    if not isinstance(user.target, torch._ops.OpOverload):
        return None
    for item in user.target._schema.arguments:
        if item.alias_info is not None:
            value = argument(user, item.name)
            if tensor in value if isinstance(value, (list, tuple)) else value is tensor:
                return item.alias_info
    return None
