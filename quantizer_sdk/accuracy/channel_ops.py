"""Ops that keep the channels of what they read apart, so that what is known of each channel is known of the result."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.operands import argument
from quantizer_sdk.provenance import value_of

__all__ = ["CURVES", "averages", "is_homogeneous"]

_ATEN = torch.ops.aten

_RELUS = frozenset({_ATEN.relu.default, _ATEN.relu_.default, _ATEN.leaky_relu.default, _ATEN.leaky_relu_.default})
_MAX_POOLS = frozenset(
    {
        *(_ATEN.max_pool1d.default, _ATEN.max_pool2d.default, _ATEN.max_pool3d.default),
        *(_ATEN.adaptive_max_pool1d.default, _ATEN.adaptive_max_pool2d.default, _ATEN.adaptive_max_pool3d.default),
    }
)
_AVERAGES = frozenset(
    {
        *(_ATEN.adaptive_avg_pool1d.default, _ATEN.adaptive_avg_pool2d.default, _ATEN.adaptive_avg_pool3d.default),
        *(_ATEN.avg_pool1d.default, _ATEN.avg_pool2d.default, _ATEN.avg_pool3d.default),
    }
)
_VIEWS = frozenset({_ATEN.flatten.using_ints, _ATEN.view.default, _ATEN.reshape.default, _ATEN.squeeze.dims})
_VIEWS |= {_ATEN.squeeze.default, _ATEN.squeeze.dim}
_IDENTITIES = frozenset({_ATEN.contiguous.default, _ATEN.clone.default})

CURVES = frozenset(
    {
        *(_ATEN.leaky_relu.default, _ATEN.leaky_relu_.default, _ATEN.silu.default, _ATEN.silu_.default),
        *(_ATEN.hardswish.default, _ATEN.hardswish_.default, _ATEN.hardsigmoid.default, _ATEN.gelu.default),
        *(_ATEN.sigmoid.default, _ATEN.tanh.default, _ATEN.elu.default, _ATEN.elu_.default, _ATEN.mish.default),
    }
)
"""Functions of each element by itself, besides clamps."""


def is_homogeneous(node: Node) -> bool:
    """Whether f(s·x) = s·f(x) for any s > 0 for each channel of a batch, exactly where s is a power of two."""
    return (
        node.target in _RELUS
        or node.target in _MAX_POOLS
        or averages(node, padded=True)
        or (node.target is _ATEN.constant_pad_nd.default and not argument(node, "value"))
        or (node.target is _ATEN.pad.default and (argument(node, "mode") != "constant" or not argument(node, "value")))
    )


def averages(node: Node, *, padded: bool = False) -> bool:
    """Whether an op keeps the mean of each channel of a batch: it averages over places, or moves them.

    Args:
        node: The op.
        padded: Whether it may take zeros into the average.
    """
    if node.target in _IDENTITIES:
        return True
    if node.target in _AVERAGES:
        padding: Any = argument(node, "padding") if "adaptive" not in str(node.target) else 0
        return padded or not any(padding if isinstance(padding, (list, tuple)) else (padding,))
    if node.target is _ATEN.mean.dim:
        rank = len(_shape(node.args[0]))
        return rank > 2 and all(dim % rank > 1 for dim in argument(node, "dim") or (0,))
    if node.target in _VIEWS:
        before, after = _shape(node.args[0]), _shape(node)
        return len(before) > 2 and len(after) >= 2 and _channels_alone(before) and _channels_alone(after)
    return False


def _shape(node: Any) -> tuple[Any, ...]:
    value = value_of(node) if isinstance(node, Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _channels_alone(shape: tuple[Any, ...]) -> bool:
    """Whether a tensor is [N, channels] or has one place for each channel of a batch."""
    return all(isinstance(size, int) and size == 1 for size in shape[2:])
