"""One rounding of a graph: quantize and its dequantizes taken as one function, from a float tensor to another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from quantizer_sdk.qdq import Layout, is_dequantize, is_narrowing_cast, is_quantize

__all__ = ["Rounding", "roundings_of"]

_PER_TENSOR = Layout.PER_TENSOR.value
_WHOLE_NUMBERS = frozenset({torch.int8, torch.uint8, torch.int16})


@dataclass(frozen=True, slots=True)
class Rounding:
    """A quantize whose users all dequantize alike, or the first of two casts.

    Attributes:
        narrow: The quantize, or the cast to the smaller type.
        widen: One of the ops that return.
    """

    narrow: Node
    widen: Node

    @property
    def key(self) -> tuple[Any, ...]:
        """What it rounds to; equal for roundings of which the second changes nothing."""
        return (self.narrow.target, *self.narrow.args[1:])

    @property
    def source(self) -> Node:
        """What is rounded."""
        source = self.narrow.args[0]
        assert isinstance(source, Node)
        return source

    @property
    def clips(self) -> tuple[float, float] | None:
        """The ends of what it can represent, for one scale that is known beforehand; else None."""
        if self.narrow.target is not _PER_TENSOR[0]:
            return None
        scale, zero_point, low, high = (float(it) for it in self.narrow.args[1:5])  # type: ignore[arg-type]  # numbers
        return (low - zero_point) * scale, (high - zero_point) * scale

    def unused_bits(self, low: float, high: float) -> float:
        """Return how many bits of its codes nobody uses, for one scale that is known beforehand; else 0.

        Args:
            low: The smallest of the values that are rounded, or 0.
            high: The largest.
        """
        if self.clips is None or not 0 < high - low < math.inf:
            return 0.0
        return max(math.log2((self.clips[1] - self.clips[0]) / (high - low)), 0.0)

    def scale(self, values: Callable[[Node], Any]) -> float | torch.Tensor | None:
        """Return the step between its codes, as it broadcasts beside the tensor; None where there is none such.

        Args:
            values: Returns the values of nodes.
        """
        if not is_quantize(self.narrow):
            return None
        layout = next((it for it in Layout if it.value[0] is self.narrow.target), Layout.PER_TENSOR_NODES)
        if layout in {Layout.PER_GROUP, Layout.PER_BLOCK}:
            return None
        scale: Any = self.narrow.args[1]
        scale = values(scale) if isinstance(scale, Node) else scale
        if layout is Layout.PER_CHANNEL:
            axis, value = self.narrow.args[3], self.source.meta.get("val")
            if not isinstance(value, torch.Tensor):
                return None
            shape = [1] * value.dim()
            shape[axis] = -1  # type: ignore[index]  # a number
            return scale.reshape(shape)  # type: ignore[no-any-return]
        return scale  # type: ignore[no-any-return]

    def function(self) -> Callable[[torch.Tensor, Callable[[Node], Any]], torch.Tensor]:
        """Return what rounds a tensor; it is given what returns the values of nodes too.

        With numbers for qparams it takes a fraction of the ops' time, and yields the same to the bit: whole numbers
        below 2**24 are exact in float32, so that adding the zero point and subtracting it changes nothing.
        """
        narrow, widen = self.narrow, self.widen
        rest, back, named = narrow.args[1:], widen.args[1:], dict(widen.kwargs)

        def by_ops(tensor: torch.Tensor, values: Callable[[Node], Any]) -> torch.Tensor:
            codes = narrow.target(tensor, *map_arg(rest, values))  # type: ignore[operator]
            return widen.target(codes, *map_arg(back, values), **named)  # type: ignore[operator,no-any-return]

        plain = (narrow.target, widen.target) == _PER_TENSOR and not named and rest == back
        if not plain or rest[4] not in _WHOLE_NUMBERS:
            return by_ops
        scale, zero_point, low, high = (float(it) for it in rest[:4])  # type: ignore[arg-type]  # numbers

        def at_once(tensor: torch.Tensor, values: Callable[[Node], Any]) -> torch.Tensor:
            if tensor.dtype is not torch.float32:
                return by_ops(tensor, values)
            return (tensor * (1.0 / scale)).round_().clamp_(low - zero_point, high - zero_point).mul_(scale)

        return at_once


def roundings_of(node: Node) -> list[Rounding]:
    """Return the roundings that read a node."""
    found = []
    for user in node.users:
        if not (is_quantize(user) or is_narrowing_cast(user)) or user.args[0] is not node:
            continue
        first, *others = user.users or [user]
        if first is user or not (is_dequantize(first) or first.target is user.target):
            continue
        alike = all(
            (it.target, it.args[1:], it.kwargs) == (first.target, first.args[1:], first.kwargs) for it in others
        )
        if alike and first.args[0] is user:
            found.append(Rounding(user, first))
    return found
