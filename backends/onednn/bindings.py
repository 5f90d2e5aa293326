"""How a node of a lowered graph is called where its tensors stay the same: what never changes is bound beforehand."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from quantizer_sdk.backends.onednn.calls import FUNCTIONS
from quantizer_sdk.backends.onednn.conv_op import bound_conv, conv
from quantizer_sdk.backends.onednn.conversion_ops import bound_quantize, quantize
from quantizer_sdk.backends.onednn.editing import only_user
from quantizer_sdk.backends.onednn.elementwise_ops import add, bound_add, bound_mul, mul
from quantizer_sdk.backends.onednn.library import KERNELS
from quantizer_sdk.backends.onednn.linear_op import bound_linear, linear
from quantizer_sdk.backends.onednn.run_time_ops import (
    bound_linear_at_run_time,
    linear_at_run_time,
    quantize_at_run_time,
    quantize_to_numbers,
)
from quantizer_sdk.backends.onednn.torch_functions import TORCH_FUNCTIONS

__all__ = ["Binding", "bind", "is_fresh", "reads_numbers"]

_OVERLOADS = {function: overload for overload, function in FUNCTIONS.items()}


@dataclass(frozen=True, slots=True)
class Binding:
    """A call.

    Attributes:
        op: The op of this package that it computes; None for any other.
        arguments: What the op, or the node's target, takes; a node stands for its result.
        function: Called in its place, with
        operands: these by position and
        keywords: these by name.
        watched: Tensors of which the function keeps what it made.
    """

    op: torch._ops.OpOverload | None
    arguments: tuple[Any, ...]
    function: Callable[..., Any]
    operands: tuple[Any, ...]
    keywords: Mapping[str, Any]
    watched: tuple[Tensor, ...] = ()


def bind(node: Node, target: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Binding:
    """Return how to call a node.

    Args:
        node: The node.
        target: The function that it calls.
        arguments: The call's, tensors of the module themselves in the place of nodes.
        keywords: As well.
    """
    op = _OVERLOADS.get(target)
    if op is None:
        return Binding(None, arguments, TORCH_FUNCTIONS.get(target, target), arguments, keywords)
    make = _MAKERS.get(target)
    made = None if make is None or keywords else make(node, arguments)
    if made is None:
        return Binding(op, arguments, KERNELS[op], arguments, keywords)
    function, operands, watched = made
    return Binding(op, arguments, function, operands, {}, watched)


_Made = tuple[Callable[..., Any], tuple[Any, ...], tuple[Tensor, ...]]
_Maker = Callable[[Node, tuple[Any, ...]], _Made | None]


def _conv(node: Node, arguments: tuple[Any, ...]) -> _Made | None:
    return _gemm(bound_conv, arguments, _gives_images(node.args[0]), _gives_images(node))


def _gives_images(node: Any) -> bool:
    """Whether a node is a convolution over lines of which only such convolutions read the result."""
    return _is_over_lines(node) and all(
        _is_over_lines(user) and user.args[0] is node and user.args[15] is not node for user in node.users
    )


def _is_over_lines(node: Any) -> bool:
    if not isinstance(node, Node) or node.target is not conv or len(node.args[6]) != 1:  # type: ignore[arg-type]
        return False
    return all(operand.op == "get_attr" for operand in node.args[1:15] if isinstance(operand, Node))


def _linear(_: Node, arguments: tuple[Any, ...]) -> _Made | None:
    return _gemm(bound_linear, arguments)


def _gemm(make: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...], *more: Any) -> _Made | None:
    x, *fixed, other, other_scale, other_zero_point = arguments
    if any(isinstance(argument, Node) for argument in fixed):
        return None
    function = make(*fixed, other_scale, other_zero_point, *more)
    return function, (x,) if other is None else (x, other), (fixed[2],)


def _linear_at_run_time(node: Node, arguments: tuple[Any, ...]) -> _Made | None:
    if not reads_numbers(node):
        return None
    x, x_scale, x_zero_point, *fixed, other = arguments
    return bound_linear_at_run_time(*fixed), (x, other, x_scale, x_zero_point), (fixed[0],)


def _quantize_at_run_time(node: Node, arguments: tuple[Any, ...]) -> _Made | None:
    x, _rows, *rest = arguments
    return (quantize_to_numbers, (x, *rest), ()) if _gives_numbers(node) else None


def reads_numbers(node: Node) -> bool:
    """Whether a linear layer gets the qparams of this run's data as numbers, and its weight never changes."""
    scale = node.args[1]
    if not isinstance(scale, Node) or scale.target is not operator.getitem:
        return False
    source = scale.args[0]
    return isinstance(source, Node) and _gives_numbers(source)


def _gives_numbers(node: Node) -> bool:
    """Whether qparams of a whole tensor's data are read by linear layers alone, whose weights never change."""
    if node.target is not quantize_at_run_time or node.args[1]:
        return False
    readers = [user for part in node.users if part.args[1] != 0 for user in part.users]
    return all(_is_plain_linear(reader) for reader in readers)


def _is_plain_linear(node: Node) -> bool:
    if node.target is not linear_at_run_time:
        return False
    return all(operand.op == "get_attr" for operand in node.args[3:6] if isinstance(operand, Node))


def _quantize(_: Node, arguments: tuple[Any, ...]) -> _Made:
    x, *qparams = arguments
    return bound_quantize(*qparams, over=is_fresh(x)), (x,), ()


def is_fresh(value: Any) -> bool:
    """Whether a tensor is the result of a gemm that only one node reads, which may write over it."""
    return isinstance(value, Node) and value.target in {conv, linear} and only_user(value) is not None


def _binary(make: Callable[..., Callable[..., Any]]) -> _Maker:
    def made(_: Node, arguments: tuple[Any, ...]) -> _Made:
        x, x_scale, x_zero_point, y, *rest = arguments
        constant = y if isinstance(y, Tensor) else None
        function = make(x_scale, x_zero_point, *rest, constant)
        return function, (x, y), () if constant is None else (constant,)

    return made


_MAKERS: Mapping[Any, _Maker] = {
    conv: _conv,
    linear: _linear,
    quantize: _quantize,
    linear_at_run_time: _linear_at_run_time,
    quantize_at_run_time: _quantize_at_run_time,
    add: _binary(bound_add),
    mul: _binary(bound_mul),
}
