"""What is known of each channel's mean without any data: from batch norm, through activations, sums and averages.

Nagel et al. 2019, arXiv:1906.04721, appendix C: what batch norm gives is taken as normal with mean β and deviation |γ|,
a clamp of it has the moments of a clipped normal.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.accuracy.channel_ops import CURVES, averages
from quantizer_sdk.constants import Constants
from quantizer_sdk.operands import argument
from quantizer_sdk.passes.clamp_forms import bounds_of_clamp
from quantizer_sdk.passes.fold_batch_norm import FOLDABLE, NORM_KEY, Normal, normal_of
from quantizer_sdk.provenance import value_of

__all__ = ["channel_means", "clipped_moments"]

_ATEN = torch.ops.aten
_ADDS = frozenset({_ATEN.add.Tensor, _ATEN.add_.Tensor})
_POINTS = 64  # of a quadrature: curves of activations are met to 1e-6


@dataclass(frozen=True, slots=True)
class _Known:
    """Of each channel of a batch, float64 [channels]: the mean, and the deviation where it is known too."""

    mean: torch.Tensor
    deviation: torch.Tensor | None


def channel_means(model: GraphModule) -> dict[Node, torch.Tensor]:
    """Return the mean of each channel of the nodes of which batch norm's statistics tell it, float64 [channels].

    Terms of a sum are taken as independent of each other.
    """
    known: dict[Node, _Known] = {}
    constants = Constants(model)
    for node in model.graph.nodes:
        found = _of(node, known, constants)
        if found is not None:
            known[node] = found
    return {node: it.mean for node, it in known.items()}


def _of(node: Node, known: dict[Node, _Known], constants: Constants) -> _Known | None:
    """Return what is known of a node's channels, from what is known of those before it."""
    if node.op != "call_function":
        return None
    if node.target in FOLDABLE:
        normal = node.meta.get(NORM_KEY)
        return _Known(normal.mean, normal.deviation) if isinstance(normal, Normal) else None
    if node.target is _ATEN.batch_norm.default:
        normal = normal_of(constants, node)
        return None if normal is None else _Known(normal.mean, normal.deviation)
    operands = [known.get(operand) for operand in node.all_input_nodes]
    if not operands or any(it is None for it in operands):
        return None
    return _combined(node, [it for it in operands if it is not None])


def _combined(node: Node, operands: list[_Known]) -> _Known | None:
    first = operands[0]
    if node.target in _ADDS:
        other = operands[-1]
        if argument(node, "alpha") != 1 or not all(isinstance(it, Node) for it in node.args[:2]):
            return None
        deviations = (first.deviation, other.deviation)
        both = None if None in deviations or len(operands) < 2 else torch.hypot(*deviations)  # type: ignore[arg-type]
        return _Known(first.mean + other.mean, both) if first.mean.shape == other.mean.shape else None
    if node.target is _ATEN.cat.default:
        rank = value_of(node).dim()
        whole = argument(node, "dim") % rank == 1 and len(operands) == len(node.args[0])  # type: ignore[arg-type]
        known = [it.deviation for it in operands if it.deviation is not None]
        means = torch.cat([it.mean for it in operands])
        return _Known(means, torch.cat(known) if len(known) == len(operands) else None) if whole else None
    if averages(node):
        return _Known(first.mean, None)
    bounds = bounds_of_clamp(node)
    if first.deviation is None:
        return None
    if bounds is not None:
        return _Known(*clipped_moments(first.mean, first.deviation, *bounds))
    return _curved(node, first.mean, first.deviation) if node.target in CURVES else None


def clipped_moments(
    mean: torch.Tensor, deviation: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of normal numbers that are clamped to low..high; float64, of the shape of `mean`."""
    safe = torch.where(deviation > 0, deviation, 1.0)
    below, above = (low - mean) / safe, (high - mean) / safe
    inside = _cdf(above) - _cdf(below)
    slope = _density(below) - _density(above)
    first = mean * inside + deviation * slope
    ends = torch.zeros_like(mean)
    for end, scaled in ((low, below), (high, above)):
        if math.isfinite(end):
            share = _cdf(scaled) if end == low else 1 - _cdf(scaled)
            curve = scaled * _density(scaled)
            first, ends = first + end * share, ends + end**2 * share
            ends = ends + deviation.square() * (curve if end == low else -curve)
    second = (mean.square() + deviation.square()) * inside + 2 * mean * deviation * slope + ends
    clamped = mean.clamp(low, high)
    first = torch.where(deviation > 0, first, clamped)
    spread = torch.where(deviation > 0, (second - first.square()).clamp(min=0).sqrt(), 0.0)
    return first, spread


def _cdf(x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.special.ndtr(x)
    return result


def _density(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


@functools.cache
def _quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    """Return points and weights of Gauss and Hermite for the normal density; float64 [points, 1]."""
    points, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    return torch.from_numpy(points)[:, None], torch.from_numpy(weights / weights.sum())[:, None]


def _curved(node: Node, mean: torch.Tensor, deviation: torch.Tensor) -> _Known:
    """Return the moments of an activation of normal numbers, by quadrature."""
    points, weights = _quadrature()
    target: Any = node.target
    values = target(mean + deviation * points, *node.args[1:], **node.kwargs)
    first = (weights * values).sum(0)
    return _Known(first, (weights * (values - first).square()).sum(0).sqrt())
