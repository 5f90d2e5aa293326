"""A layer as a product of matrices, at a sample of the places of its result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.nn import functional

from quantizer_sdk.accuracy.channel_ops import CURVES
from quantizer_sdk.accuracy.channel_weights import groups_of
from quantizer_sdk.operands import argument
from quantizer_sdk.passes.clamp_forms import bounds_of_clamp

__all__ = ["SAMPLED", "activation_behind", "operands_at", "places", "results_at"]

_ATEN = torch.ops.aten
SAMPLED = frozenset(
    {
        _ATEN.linear.default,
        *(_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default),
        *(_ATEN.conv1d.padding, _ATEN.conv2d.padding, _ATEN.conv3d.padding),
    }
)
"""The layers that are known as products; transposed convolutions are not."""


def activation_behind(layer: Node) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function of each element that alone reads a layer's result; the identity where something else does."""
    users = list(layer.users)
    user = users[0] if len(users) == 1 else None
    if user is None or user.op != "call_function" or user.args[:1] != (layer,):
        return lambda value: value
    if user.target not in CURVES and bounds_of_clamp(user) is None:
        return lambda value: value
    target: Any = user.target
    return lambda value: target(value, *user.args[1:], **user.kwargs)


def places(layer: Node, result: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw places of a layer's result, without repetition where there are as many; int64 [count or fewer]."""
    total = _rows(layer, result).shape[0]
    return torch.randperm(total, generator=generator)[:count].sort().values


def results_at(layer: Node, result: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return a layer's result at these places, [places, output channels]."""
    return _rows(layer, result)[where]


def operands_at(layer: Node, operand: torch.Tensor, weight: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return what is multiplied by a layer's weight at these places of its result.

    Args:
        layer: The call.
        operand: What it reads.
        weight: Its weight, for the kernel's shape.
        where: The places.

    Returns:
        [groups, places, inputs of an output channel], in the order of `weight.flatten(1)`.
    """
    if layer.target is _ATEN.linear.default:
        return operand.reshape(1, -1, operand.shape[-1])[:, where]
    size, groups = list(weight.shape[2:]), groups_of(layer)
    stride, dilation = (_each(argument(layer, name), len(size)) for name in ("stride", "dilation"))
    batched = operand if operand.dim() == weight.dim() else operand[None]
    before, after = _padding(layer, size, dilation)
    padded = functional.pad(batched, [end for pair in reversed(list(zip(before, after, strict=True))) for end in pair])
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    shape = [(n - span) // s + 1 for n, span, s in zip(padded.shape[2:], spans, stride, strict=True)]
    image, *position = torch.unravel_index(where, (padded.shape[0], *shape))
    taps = []
    for offsets in itertools.product(*(range(k) for k in size)):
        at = tuple(p * s + o * d for p, s, o, d in zip(position, stride, offsets, dilation, strict=True))
        index = (image, *at)
        taps.append(padded.movedim(1, -1)[index])  # [places, channels]
    rows = torch.stack(taps, dim=2)
    return rows.reshape(len(where), groups, -1).movedim(1, 0)


def _rows(layer: Node, result: torch.Tensor) -> torch.Tensor:
    """Return a layer's result as [places, output channels]."""
    if layer.target is _ATEN.linear.default:
        return result.reshape(-1, result.shape[-1])
    rank = len(_kernel(layer))
    channels = result.dim() - rank - 1
    return result.movedim(channels, -1).reshape(-1, result.shape[channels])


def _kernel(layer: Node) -> Sequence[int]:
    weight = argument(layer, "weight").meta["val"]
    return tuple(weight.shape[2:])


def _padding(layer: Node, size: Sequence[int], dilation: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return how many zeros a convolution reads before and behind each axis of places."""
    given = argument(layer, "padding")
    if given == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        return [total // 2 for total in totals], [total - total // 2 for total in totals]
    ends = [0] * len(size) if given == "valid" else _each(given, len(size))
    return ends, ends


def _each(value: Any, count: int) -> list[int]:
    """Return one number for each axis of places."""
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(number) for number in (numbers * count if len(numbers) == 1 else numbers)]
