"""What an exported program takes: names, dtypes and shapes of its tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

__all__ = ["ModelInput", "dynamic_shapes_of", "inputs_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """One tensor that a model takes.

    Attributes:
        name: Its name in the graph.
        dtype: Its type.
        shape: Its sizes; None for one that may vary.
        batch_range: The sizes that the first axis may have.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]
    batch_range: tuple[int, int]

    def __str__(self) -> str:
        sizes = ", ".join("*" if size is None else str(size) for size in self.shape)
        return f"{self.name!r}, {str(self.dtype).removeprefix('torch.')} [{sizes}]"


def inputs_of(program: ExportedProgram) -> tuple[ModelInput, ...]:
    """Return the tensors that a program takes, in the order of its graph; constants such as flags are left out."""
    found = []
    for name, value in _tensors(program):
        shape = tuple(int(size) if isinstance(size, int) else None for size in value.shape)
        low, high = (shape[0] or 1, shape[0] or _MOST) if shape else (1, 1)
        if shape and shape[0] is None:
            low, high = _range(program, value.shape[0])
        found.append(ModelInput(name=name, dtype=value.dtype, shape=shape, batch_range=(low, high)))
    return tuple(found)


_MOST = 2**31


def dynamic_shapes_of(program: ExportedProgram) -> Any:
    """Return the sizes that may vary, as `torch.export.export` takes them, for each tensor; None if all are fixed."""
    dims: dict[str, Any] = {}
    found = []
    for _name, value in _tensors(program):
        open_sizes: dict[int, Any] = {}
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                continue
            symbol = str(size)
            if symbol not in dims:
                low, high = _range(program, size)
                limits = {"min": low} | ({"max": high} if high < _MOST else {})
                dims[symbol] = Dim(f"d{len(dims)}", **limits) if symbol.isidentifier() else Dim.AUTO
            open_sizes[axis] = dims[symbol]
        found.append(open_sizes)
    return tuple(found) if any(found) else None


def _tensors(program: ExportedProgram) -> list[tuple[str, torch.Tensor]]:
    wanted = {name for name in program.graph_signature.user_inputs if isinstance(name, str)}
    values = [(node.name, node.meta.get("val")) for node in program.graph.find_nodes(op="placeholder")]
    return [(name, value) for name, value in values if name in wanted and isinstance(value, torch.Tensor)]


def _range(program: ExportedProgram, size: Any) -> tuple[int, int]:
    """Return the least and the largest value of a size that varies."""
    limits = program.range_constraints.get(size.node.expr)
    if limits is None:
        return 2, _MOST
    low, high = (int(end) if math.isfinite(float(end)) else _MOST for end in (limits.lower, limits.upper))
    return max(low, 1), min(high, _MOST)
