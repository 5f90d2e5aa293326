"""Ops that take tensors apart or rename axes, and means, in forms with static numbers."""

from __future__ import annotations

import itertools

import torch
from torch.fx import Node

from quantizer_sdk.operands import argument
from quantizer_sdk.passes.rewrite_ops import Replacement, Rewrite
from quantizer_sdk.provenance import value_of

__all__ = ["MEAN_KEEPING_AXES", "MEAN_OF_SIGNAL", "RESHAPE", "SPLIT_AS_SLICES"]

_ATEN = torch.ops.aten
_VIEWS = frozenset({_ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default})
_AXES = frozenset(
    {_ATEN.squeeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims, _ATEN.unsqueeze.default, _ATEN.unflatten.int}
)


def _slices(replacement: Replacement, node: Node) -> list[Node] | None:
    operand, axis = argument(node, "self"), argument(node, "dim")
    sizes = [part.shape[axis] for part in value_of(node)]
    if not all(isinstance(size, int) for size in sizes):
        return None
    ends = list(itertools.accumulate(sizes))
    return [
        replacement.call(_ATEN.slice.Tensor, operand, axis, end - size, end)
        for size, end in zip(sizes, ends, strict=True)
    ]


def _reshape(replacement: Replacement, node: Node) -> Node | None:
    sizes = node.args[1] if node.target in _VIEWS else None
    if sizes is not None and not any(isinstance(size, Node) for size in sizes):  # type: ignore[union-attr]
        return None
    shape = _static_shape(node)
    return None if shape is None else replacement.call(_ATEN.reshape.default, argument(node, "self"), shape)


def _mean(replacement: Replacement, node: Node) -> Node | None:
    axes, shape = argument(node, "dim"), _static_shape(node)
    if argument(node, "keepdim") or argument(node, "dtype") is not None or not axes or shape is None:
        return None
    kept = replacement.call(_ATEN.mean.dim, argument(node, "self"), axes, True)
    return replacement.call(_ATEN.reshape.default, kept, shape)


def _mean_of_signal(replacement: Replacement, node: Node) -> Node | None:
    operand = argument(node, "self")
    sizes = value_of(operand).shape
    if len(sizes) != 3 or not all(isinstance(size, int) for size in sizes[1:]):
        return None
    if node.target is _ATEN.mean.dim:
        axes = argument(node, "dim")
        averages = axes is not None and [axis % 3 for axis in axes] == [2] and argument(node, "dtype") is None
    else:
        averages = list(argument(node, "output_size")) == [1]
    if not averages:
        return None
    image = replacement.call(_ATEN.reshape.default, operand, [-1, sizes[1], 1, sizes[2]])  # of any number of signals
    pooled = replacement.call(_ATEN.mean.dim, image, [2, 3], True)
    return replacement.call(_ATEN.reshape.default, pooled, [-1, *value_of(node).shape[1:]])


def _static_shape(node: Node) -> list[int] | None:
    """Return the shape of a node's result with -1 for its dynamic axis; None where it has several."""
    shape = [size if isinstance(size, int) else -1 for size in value_of(node).shape]
    return shape if shape.count(-1) <= 1 else None


SPLIT_AS_SLICES = Rewrite(
    name="split_as_slices",
    targets=frozenset({_ATEN.chunk.default, _ATEN.split.Tensor, _ATEN.split_with_sizes.default}),
    build=_slices,
    moves=True,
)
"""chunk and split as slices, exactly."""

RESHAPE = Rewrite(name="reshape", targets=_VIEWS | _AXES, build=_reshape, moves=True)
"""What only renames axes, and views to sizes computed at run time, as a reshape to numbers, with -1 for a dynamic axis.

Left alone where two axes of the result are dynamic: a reshape can leave only one open.
"""

MEAN_OF_SIGNAL = Rewrite(
    name="mean_of_signal",
    targets=frozenset({_ATEN.mean.dim, _ATEN.adaptive_avg_pool1d.default}),
    build=_mean_of_signal,
    moves=True,
)
"""A mean over the last axis of rank 3, and adaptive pooling to one element, as a mean over an image of one row.

Up to the order in which a float kernel sums.
"""

MEAN_KEEPING_AXES = Rewrite(name="mean_keeping_axes", targets=frozenset({_ATEN.mean.dim}), build=_mean, moves=True)
"""A mean that drops its axes as one that keeps them and a reshape, exactly."""
