"""A layer's weight by its input and output channels, however convolutions, transposed or grouped, lay them out."""

from __future__ import annotations

import torch
from torch.fx import Node

from quantizer_sdk.operands import argument
from quantizer_sdk.passes.fold_batch_norm import FOLDABLE
from quantizer_sdk.provenance import value_of

__all__ = ["groups_of", "inputs_of_a_channel", "scaled_by_input", "weight_by_input", "weight_by_output"]


def groups_of(layer: Node) -> int:
    """Return the number of groups of a layer; 1 for a linear one."""
    return 1 if layer.target is torch.ops.aten.linear.default else int(argument(layer, "groups"))


def inputs_of_a_channel(layer: Node) -> int:
    """Return how many input channels an output channel is made of."""
    weight = value_of(argument(layer, "weight"))
    return int(weight.shape[1]) if _outputs_first(layer) else int(weight.shape[0]) // groups_of(layer)


def weight_by_input(layer: Node, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight as [input channels, elements that multiply it]."""
    return _by_inner(layer, weight) if _outputs_first(layer) else weight.flatten(1)


def weight_by_output(layer: Node, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight as [output channels, elements that make it]."""
    return weight.flatten(1) if _outputs_first(layer) else _by_inner(layer, weight)


def scaled_by_input(layer: Node, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return a weight times a factor for each of its input channels."""
    ones = [1] * (weight.dim() - 2)
    if not _outputs_first(layer):
        return weight * factor.reshape(-1, 1, *ones)
    groups = groups_of(layer)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return (grouped * factor.reshape(groups, 1, -1, *ones)).reshape(weight.shape)


def _outputs_first(layer: Node) -> bool:
    return FOLDABLE[layer.target] == 0  # type: ignore[index]


def _by_inner(layer: Node, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight by the channels that lie on its second axis, group by group."""
    grouped = weight.reshape(groups_of(layer), -1, *weight.shape[1:])
    return grouped.movedim(2, 1).flatten(2).flatten(0, 1)
