"""From a file or a folder to batches that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from quantizer_sdk.errors import DataError
from quantizer_sdk.samples import arrays, images
from quantizer_sdk.samples.arrays import named, read_arrays, samples_of
from quantizer_sdk.samples.images import ImageOptions, ImageReader
from quantizer_sdk.samples.inputs import ModelInput

__all__ = ["Samples", "load_samples"]

_BATCH = 8  # where the model takes any


@dataclass(frozen=True, slots=True)
class Samples:
    """Data for a model.

    Attributes:
        batches: For each run of the model its inputs, in order.
        batch_size: The number of samples in each.
        notes: What the user should know, such as how images were prepared.
    """

    batches: tuple[tuple[torch.Tensor, ...], ...]
    batch_size: int
    notes: tuple[str, ...]

    def held_out(self) -> tuple[Samples, Samples]:
        """Return samples to calibrate with and others, one batch of five, to measure on; of fewer the same for both."""
        count = len(self.batches)
        if count < 5:
            return self, self
        chosen = set(range(2, count, 5))
        kept = tuple(batch for index, batch in enumerate(self.batches) if index not in chosen)
        other = tuple(batch for index, batch in enumerate(self.batches) if index in chosen)
        return Samples(kept, self.batch_size, self.notes), Samples(other, self.batch_size, self.notes)


def load_samples(
    path: Path,
    inputs: Sequence[ModelInput],
    *,
    limit: int = 256,
    batch_size: int | None = None,
    options: ImageOptions | None = None,
) -> Samples:
    """Read samples and put them into batches.

    Args:
        path: A .npy, .npz or .pt file of samples, or a folder of such files or of images, however deep. A file that
            names its arrays names them as the model's inputs; others hold them in order. The first axis of an array
            counts samples.
        inputs: What the model takes.
        limit: The most samples to take; of more, ones spread evenly over all.
        batch_size: How many samples a run takes, for models that take any number; None takes 8, or what there is.
        options: How images become tensors.

    Raises:
        DataError: There is nothing, or something that the model does not take; names file, input, shape and dtype.
        MissingDependencyError: Pillow is not installed, for images.
    """
    taken = tuple(inputs)
    if not taken:
        raise DataError("the model takes no tensors, so that there is nothing to calibrate")
    if not path.exists():
        raise DataError(f"{path} does not exist; expected a .npy, .npz or .pt file of samples, or a folder")
    notes: list[str] = []
    if path.is_dir():
        values = _folder(path, taken, limit, options or ImageOptions(), notes)
    else:
        if path.suffix not in arrays.SUFFIXES:
            raise DataError(
                f"{path} ends in {path.suffix!r}; expected one of {', '.join(arrays.SUFFIXES)}, or a folder"
            )
        values = [
            samples_of(value, wanted, path)
            for value, wanted in zip(named(read_arrays(path), taken, path), taken, strict=True)
        ]
    return _batched(values, taken, path, limit, batch_size, notes)


def _folder(
    path: Path, inputs: tuple[ModelInput, ...], limit: int, options: ImageOptions, notes: list[str]
) -> list[torch.Tensor]:
    """Return the samples in a folder, for each input."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    by_kind = {
        kind: [file for file in files if file.suffix.lower() in suffixes]
        for kind, suffixes in (("images", images.SUFFIXES), ("arrays", arrays.SUFFIXES))
    }
    kinds = [kind for kind, found in by_kind.items() if found]
    if len(kinds) != 1:
        what = "both images and arrays" if kinds else "neither images nor arrays"
        accepted = ", ".join((*arrays.SUFFIXES, *images.SUFFIXES))
        raise DataError(f"{path} holds {what}; expected files of one kind, of {accepted}")
    (kind,) = kinds
    chosen = [by_kind[kind][index] for index in _spread(len(by_kind[kind]), limit)]
    if kind == "images":
        if len(inputs) != 1:
            raise DataError(
                f"{path} holds images, which are one input; the model takes {'; '.join(map(str, inputs))}. Save "
                "samples as .npz files with an array for each"
            )
        reader = ImageReader(inputs[0], options)
        notes.append(str(reader))
        return [torch.cat([reader.read(file) for file in chosen])]
    found = [
        [
            samples_of(value, wanted, file)
            for value, wanted in zip(named(read_arrays(file), inputs, file), inputs, strict=True)
        ]
        for file in chosen
    ]
    columns = list(zip(*found, strict=True))
    for wanted, column in zip(inputs, columns, strict=True):
        if len({value.shape[1:] for value in column}) > 1:
            shapes = sorted({tuple(value.shape[1:]) for value in column})
            raise DataError(f"{path}: the samples for input {wanted} have different shapes, {shapes}; give them one")
    return [torch.cat(column) for column in columns]


def _spread(count: int, limit: int) -> list[int]:
    """Return so many indexes of at most all, spread evenly: files are often sorted by class."""
    return list(range(count)) if count <= limit else [index * count // limit for index in range(limit)]


def _batched(
    values: list[torch.Tensor],
    inputs: tuple[ModelInput, ...],
    path: Path,
    limit: int,
    batch_size: int | None,
    notes: list[str],
) -> Samples:
    count = max(len(value) for value in values)
    fixed = [wanted.shape[0] for wanted, value in zip(inputs, values, strict=True) if len(value) == count]
    for wanted, value in zip(inputs, values, strict=True):
        if len(value) != count and len(value) != wanted.shape[0]:
            counts = ", ".join(
                f"{len(value)} for {wanted.name!r}" for wanted, value in zip(inputs, values, strict=True)
            )
            raise DataError(f"{path} holds different numbers of samples: {counts}")
    size = next((size for size in fixed if size is not None), None)
    if size is not None and batch_size not in (None, size):
        raise DataError(
            f"the model was exported for batches of {size}; a batch size of {batch_size} is for dynamic ones"
        )
    if size is None:
        low = max(wanted.batch_range[0] for wanted in inputs)
        high = min(wanted.batch_range[1] for wanted in inputs)
        size = batch_size or max(low, min(_BATCH, high, count))
        if not low <= size <= high:
            raise DataError(f"batches of {size} samples; the model was exported for {low} to {high}")
    if count < size:
        raise DataError(
            f"{path} holds {count} samples; the model takes {'; '.join(map(str, inputs))}, batches of {size}: give at "
            "least that many, or export the model with a dynamic batch"
        )
    chosen = _spread(count, max(limit, size))
    runs = len(chosen) // size
    if left := count - runs * size:
        notes.append(f"{left} of {count} samples are left out: {runs} batches of {size}")
    order = torch.tensor(chosen)
    columns = [value[order] if len(value) == count else value for value in values]
    batches = tuple(
        tuple(
            column[run * size : (run + 1) * size].contiguous() if len(column) == len(chosen) else column
            for column in columns
        )
        for run in range(runs)
    )
    return Samples(batches, size, tuple(notes))
