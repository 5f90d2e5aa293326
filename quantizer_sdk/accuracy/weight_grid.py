"""The codes that a weight may be rounded to without a change of its scale."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from quantizer_sdk.constants import Constants
from quantizer_sdk.dtypes import FLOAT_CODE_DTYPES
from quantizer_sdk.granularity import Granularity, split_blocks
from quantizer_sdk.qdq import Layout

__all__ = ["WeightGrid", "grid_of_weight", "keeps_scale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightGrid:
    """A weight and its codes; all tensors have its shape, and codes are whole float32 numbers.

    Attributes:
        weight: float32.
        scale: The scale of each element.
        largest: The largest magnitude among the elements that share its scale.
        nearest: The code next to each.
        low: The smallest code that each may have. Elements of the largest magnitude have no choice.
        high: The largest.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    largest: torch.Tensor
    nearest: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def weight_of(self, codes: torch.Tensor) -> torch.Tensor:
        """Return a weight that is rounded to these codes, and whose largest magnitudes are those that it had."""
        rounded = (codes * self.scale).clamp(-self.largest, self.largest)
        return torch.where(self.weight.abs() == self.largest, self.weight, rounded)

    def by_groups(self, groups: int) -> WeightGrid:
        """Return the same as matrices: [groups, inputs of an output channel, outputs of a group]."""
        parts = {
            item.name: getattr(self, item.name).reshape(groups, self.weight.shape[0] // groups, -1).mT.contiguous()
            for item in dataclasses.fields(self)
        }
        return WeightGrid(**parts)


def grid_of_weight(
    constants: Constants, dequantize: Node, weight: torch.Tensor, granularity: Granularity
) -> WeightGrid | None:
    """Return the codes for a weight; None where they are floats, or have a zero point besides 0.

    Args:
        constants: Those of the converted model.
        dequantize: Its op that turns the weight's codes into floats.
        weight: The float weight.
        granularity: How many of its elements share a scale.
    """
    layout = next(layout for layout in Layout if layout.value[1] is dequantize.target)
    stored: Any = dequantize.args[0]
    qparams = [constants.read(it).detach() if isinstance(it, Node) else it for it in dequantize.args[1:]]
    codes = constants.read(stored)
    if layout is Layout.PER_GROUP:  # its dequantize takes the float type too
        qparams = qparams[:-1]
    real = weight.detach().to(torch.float32)

    def quantized(value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = layout.value[0](value, *qparams)
        return found.to(torch.float32)

    if codes.dtype in FLOAT_CODE_DTYPES or bool(quantized(torch.zeros_like(real)).any()):
        return None
    rest = () if layout is not Layout.PER_GROUP else (torch.float32,)
    blocks = split_blocks(real.abs(), granularity.block_of(real.shape))
    largest = blocks.amax(list(range(1, blocks.dim(), 2)), keepdim=True).expand_as(blocks).reshape(real.shape)
    nearest, low, high = quantized(real), quantized(-largest), quantized(largest)
    fixed = real.abs() == largest
    return WeightGrid(
        weight=real,
        scale=layout.value[1](torch.ones_like(codes), *qparams, *rest).to(torch.float32),
        largest=largest,
        nearest=nearest,
        low=torch.where(fixed, nearest, low),
        high=torch.where(fixed, nearest, high),
    )


def keeps_scale(observer: nn.Module, before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether an observer chooses the very same qparams for another weight."""
    chosen = []
    for weight in (before, after):
        watcher: Any = copy.deepcopy(observer)
        with torch.no_grad():
            watcher(weight)
        chosen.append(watcher.calculate_qparams())
    return all(torch.equal(a, b) for a, b in zip(*chosen, strict=True))
