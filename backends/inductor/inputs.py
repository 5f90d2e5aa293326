"""What a program takes: checked before the compiled code sees it, for that would read past a tensor's end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from quantizer_sdk.errors import LoweringError

__all__ = ["InputSpec", "checked", "describe_inputs"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A tensor that a program takes.

    Attributes:
        dtype: Its elements' type.
        shape: Its sizes; for a dynamic one the smallest and the largest.
    """

    dtype: torch.dtype
    shape: tuple[int | tuple[int, int | None], ...]

    def fits(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is one of these."""
        if tensor.dtype != self.dtype or tensor.dim() != len(self.shape):
            return False
        return all(_within(size, wanted) for size, wanted in zip(tensor.shape, self.shape, strict=True))

    def has_constant(self, tensor: torch.Tensor) -> bool:
        """Whether a dynamic size is 0 or 1 in this tensor."""
        sizes = zip(tensor.shape, self.shape, strict=True)
        return any(size < 2 and not isinstance(wanted, int) for size, wanted in sizes)

    def __str__(self) -> str:
        sizes = [str(size) if isinstance(size, int) else f"{size[0]} to {size[1] or 'any'}" for size in self.shape]
        return f"{self.dtype} ({', '.join(sizes)})"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        shape = [size if isinstance(size, int) else list(size) for size in self.shape]
        return {"dtype": str(self.dtype).removeprefix("torch."), "shape": shape}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> InputSpec:
        """Return the spec of such data."""
        shape = tuple(size if isinstance(size, int) else (size[0], size[1]) for size in data["shape"])
        return cls(getattr(torch, data["dtype"]), shape)


def _within(size: int, wanted: int | tuple[int, int | None]) -> bool:
    if isinstance(wanted, int):
        return size == wanted
    low, high = wanted
    return low <= size and (high is None or size <= high)


def describe_inputs(examples: Sequence[torch.Tensor], exported: ExportedProgram | None) -> tuple[InputSpec, ...]:
    """Return what a program takes that was lowered with these examples.

    Args:
        examples: The example inputs.
        exported: The program with its dynamic sizes; None where all sizes are those of the examples.
    """
    if exported is None:
        return tuple(InputSpec(tensor.dtype, tuple(tensor.shape)) for tensor in examples)
    names = set(exported.graph_signature.user_inputs)
    fakes = [node.meta["val"] for node in exported.graph.find_nodes(op="placeholder") if node.name in names]
    ranges = exported.range_constraints
    return tuple(InputSpec(fake.dtype, tuple(_size(size, ranges) for size in fake.shape)) for fake in fakes)


def _size(size: int | torch.SymInt, ranges: dict[Any, Any]) -> int | tuple[int, int | None]:
    if isinstance(size, int):
        return size
    found = ranges.get(size.node.expr)
    if found is None:
        return (0, None)
    low, high = (int(end) if end.is_finite and abs(end) < 2**40 else None for end in (found.lower, found.upper))
    return (low or 0, high)


def checked(inputs: Sequence[torch.Tensor], specs: Sequence[InputSpec]) -> tuple[torch.Tensor, ...]:
    """Return the tensors in the memory format that was compiled for.

    Raises:
        LoweringError: Their number, or the dtype or shape of one, is not what the program takes.
    """
    if len(inputs) != len(specs):
        raise LoweringError(f"the program takes {len(specs)} inputs; got {len(inputs)}")
    for place, (tensor, spec) in enumerate(zip(inputs, specs, strict=True)):
        if not spec.fits(tensor):
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise LoweringError(f"input {place} is {found}; the program was lowered for {spec}")
    return tuple(tensor.detach().contiguous() for tensor in inputs)
