"""Files of arrays and tensors: .npy, .npz, .pt."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantizer_sdk.errors import DataError
from quantizer_sdk.samples.inputs import ModelInput

__all__ = ["SUFFIXES", "named", "read_arrays", "samples_of"]

SUFFIXES = (".npy", ".npz", ".pt")
_UNNAMED = re.compile(r"arr_\d+")


def read_arrays(path: Path) -> dict[str, torch.Tensor] | list[torch.Tensor]:
    """Return the tensors in a file: by name where it names them, else in order.

    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    try:
        found = torch.load(path, weights_only=True) if path.suffix == ".pt" else np.load(path, allow_pickle=False)
    except Exception as e:  # a broken file makes its readers raise anything
        reason = getattr(e, "strerror", None) or str(e).split("\n")[0]
        raise DataError(f"cannot read {path}: {reason}; a {path.suffix} file of arrays without pickled objects") from e
    if isinstance(found, np.lib.npyio.NpzFile):
        with found:
            arrays = {name: _tensor(found[name], path, name) for name in found.files}
        if all(_UNNAMED.fullmatch(name) for name in arrays):
            return [arrays[name] for name in sorted(arrays, key=lambda name: int(name[4:]))]
        return arrays
    if isinstance(found, dict):
        return {str(name): _tensor(value, path, str(name)) for name, value in found.items()}
    if isinstance(found, (tuple, list)):
        return [_tensor(value, path, f"element {index}") for index, value in enumerate(found)]
    return [_tensor(found, path, "")]


def _tensor(value: Any, path: Path, name: str) -> torch.Tensor:
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except TypeError as e:
            raise DataError(f"{path}{f', {name}' if name else ''} holds {value.dtype}, which no tensor is of") from e
    if not isinstance(value, torch.Tensor):
        raise DataError(f"{path}{f', {name}' if name else ''} is a {type(value).__name__}; expected a tensor")
    return value


def named(
    found: dict[str, torch.Tensor] | list[torch.Tensor], inputs: tuple[ModelInput, ...], path: Path
) -> list[torch.Tensor]:
    """Return the tensors of a file in the order of a model's inputs.

    Raises:
        DataError: One is missing, or one is of no input.
    """
    wanted = f"the model takes {'; '.join(map(str, inputs))}"
    if isinstance(found, list) or (len(found) == len(inputs) == 1):
        values = found if isinstance(found, list) else list(found.values())
        if len(values) != len(inputs):
            raise DataError(f"{path} holds {len(values)} arrays; {wanted}")
        return values
    names = [item.name for item in inputs]
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{path} has no array {', '.join(map(repr, missing))}, only {', '.join(found)}; {wanted}")
    if unknown := [name for name in found if name not in names]:
        raise DataError(f"{path} has {', '.join(map(repr, unknown))}, which is no input; {wanted}")
    return [found[name] for name in names]


def samples_of(value: torch.Tensor, wanted: ModelInput, path: Path) -> torch.Tensor:
    """Return an array as samples [count, ...] of an input, in its dtype.

    It may be samples, one sample, or whole batches.

    Raises:
        DataError: Shape or dtype do not fit.
    """
    shape, rank = tuple(value.shape), len(wanted.shape)
    if rank and _fits(shape, (None, *wanted.shape[1:])):
        result = value
    elif rank and _fits(shape, wanted.shape[1:]):
        result = value[None]
    elif rank and _fits(shape, (None, *wanted.shape)):
        result = value.flatten(0, 1)
    else:
        sizes = ", ".join("*" if size is None else str(size) for size in wanted.shape[1:])
        raise DataError(
            f"{path}: the array for input {wanted} has shape {list(shape)}; expected samples [count, {sizes}], or one "
            f"sample [{sizes}]"
        )
    return _cast(result, wanted, path)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(size in (None, own) for own, size in zip(shape, wanted, strict=True))


def _cast(value: torch.Tensor, wanted: ModelInput, path: Path) -> torch.Tensor:
    """Give samples the dtype of the input, where that is only another width."""
    if value.dtype == wanted.dtype:
        return value
    where = f"{path}: the array for input {wanted} holds {str(value.dtype).removeprefix('torch.')}"
    if value.is_floating_point() and wanted.dtype.is_floating_point:
        return value.to(wanted.dtype)
    if torch.bool in {value.dtype, wanted.dtype} or value.is_floating_point() or value.is_complex():
        raise DataError(f"{where}; give it the input's type")
    if wanted.dtype.is_floating_point:
        raise DataError(f"{where}; scale it as the model was trained with, and save floats")
    result = value.to(wanted.dtype)
    if not torch.equal(result.to(value.dtype), value):
        raise DataError(f"{where}, with values that the input's type does not hold")
    return result
