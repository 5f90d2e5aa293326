"""How many elements share one scale. The names and meanings are torchao's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from quantizer_sdk.errors import InvalidSpecError

__all__ = [
    "Granularity",
    "PerAxis",
    "PerBlock",
    "PerGroup",
    "PerRow",
    "PerTensor",
    "PerToken",
    "beside_blocks",
    "filled",
    "grid_of",
    "split_blocks",
    "to_lanes",
]


@dataclass(frozen=True, slots=True)
class Granularity(ABC):
    """A partition of a tensor into blocks of one shape; each block has one scale and one zero point."""

    @abstractmethod
    def pattern(self, rank: int) -> tuple[int, ...]:
        """Return the block's size along each axis of a tensor of this rank; -1 takes the whole axis.

        Raises:
            InvalidSpecError: The tensor has no such axis.
        """

    def block_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the block's size along each axis of a tensor of this shape.

        Raises:
            InvalidSpecError: The tensor has no such axis, or blocks do not divide it.
        """
        pattern = self.pattern(len(shape))
        parts = zip(pattern, shape, strict=False)
        if len(pattern) != len(shape) or any(part != -1 and (part < 1 or size % part) for part, size in parts):
            message = (
                f"{self} does not divide a tensor of shape {list(shape)}; each axis must be a multiple of its block"
            )
            raise InvalidSpecError(message)
        return filled(pattern, shape)


@dataclass(frozen=True, slots=True)
class PerTensor(Granularity):
    """One scale for the tensor."""

    def pattern(self, rank: int) -> tuple[int, ...]:
        """Return all axes whole."""
        return (-1,) * rank


@dataclass(frozen=True, slots=True)
class PerAxis(Granularity):
    """One scale for each index along an axis, such as the output channels of a weight.

    Attributes:
        axis: Which axis; negative ones count from the end.
    """

    axis: int

    def pattern(self, rank: int) -> tuple[int, ...]:
        """Return 1 along the axis, all elsewhere."""
        axis = _axis(self, self.axis, rank)
        return tuple(1 if index == axis else -1 for index in range(rank))


@dataclass(frozen=True, slots=True)
class PerRow(Granularity):
    """One scale for each row along an axis: every other axis is kept.

    Attributes:
        dim: The axis that a row runs along; negative ones count from the end.
    """

    dim: int = -1

    def pattern(self, rank: int) -> tuple[int, ...]:
        """Return all along the axis, 1 elsewhere."""
        dim = _axis(self, self.dim, rank)
        return tuple(-1 if index == dim else 1 for index in range(rank))


@dataclass(frozen=True, slots=True)
class PerToken(Granularity):
    """One scale for each vector along the last axis, chosen at run time."""

    def pattern(self, rank: int) -> tuple[int, ...]:
        """Return all along the last axis, 1 elsewhere."""
        return PerRow(-1).pattern(rank)


@dataclass(frozen=True, slots=True)
class PerGroup(Granularity):
    """One scale for each group of neighbours along the last axis.

    Attributes:
        group_size: How many neighbours.
    """

    group_size: int

    def pattern(self, rank: int) -> tuple[int, ...]:
        """Return the group size along the last axis, 1 elsewhere."""
        return (1,) * (rank - 1) + (self.group_size,)


@dataclass(frozen=True, slots=True)
class PerBlock(Granularity):
    """One scale for each block of a given size.

    Attributes:
        block_size: Its size along each axis, the last ones first aligned: axes before them have blocks of 1. -1 takes
            the whole axis.
    """

    block_size: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_size", tuple(self.block_size))

    def pattern(self, rank: int) -> tuple[int, ...]:
        """Return the block, with 1 for the axes before it."""
        if len(self.block_size) > rank:
            message = f"{self} has more axes than a tensor of rank {rank}"
            raise InvalidSpecError(message)
        return (1,) * (rank - len(self.block_size)) + self.block_size


def _axis(granularity: Granularity, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        message = f"{granularity} names axis {axis} of a tensor of rank {rank}; accepted are 0 to {rank - 1}"
        raise InvalidSpecError(message)
    return axis % rank


def filled(pattern: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Return a block with the sizes of whole axes in place of -1."""
    return tuple(size if part == -1 else part for part, size in zip(pattern, shape, strict=True))


def grid_of(block: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of blocks along each axis."""
    return tuple(size // part if part else 0 for part, size in zip(block, shape, strict=True))


def to_lanes(x: torch.Tensor, block: Sequence[int]) -> torch.Tensor:
    """Return a tensor [blocks, elements of a block], blocks in the order of the grid, without a copy where possible."""
    grid = grid_of(block, x.shape)
    kept = [axis for axis, count in enumerate(grid) if count != 1]
    if not kept:
        return x.reshape(1, -1)
    if len(kept) == 1 and block[kept[0]] == 1:
        return x.movedim(kept[0], 0).flatten(1)
    order = [*range(0, 2 * x.dim(), 2), *range(1, 2 * x.dim(), 2)]
    return split_blocks(x, block).permute(order).reshape(math.prod(grid), -1)


def split_blocks(x: torch.Tensor, block: Sequence[int]) -> torch.Tensor:
    """Return a tensor with two axes for each: the blocks, and the elements of one."""
    return x.reshape([size for pair in zip(grid_of(block, x.shape), block, strict=True) for size in pair])


def beside_blocks(qparam: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Return one number a block, of as many as the grid has, so that it broadcasts over what `split_blocks` gives."""
    return qparam.reshape([size for count in grid for size in (count, 1)])
