"""Run a prepared model over calibration data."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.fx import GraphModule

from quantizer_sdk.batches import Progress, run_batch
from quantizer_sdk.calibration_state import Checkpoint, merge_observers, observers_of, snapshots_of
from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.distributed import ranks
from quantizer_sdk.errors import CalibrationError
from quantizer_sdk.model_copy import written_tensors
from quantizer_sdk.rank_watch import RankWatch
from quantizer_sdk.shards import shard_of
from quantizer_sdk.verify import require_prepared

__all__ = ["calibrate"]


def calibrate(
    prepared: GraphModule,
    batches: Iterable[Any],
    *,
    progress: Progress | None = None,
    shard: bool | None = None,
    checkpoint: str | Path | None = None,
) -> int:
    """Run a prepared model over calibration data; under torchrun each rank over its share of it.

    Where torch.distributed is set up, all ranks call this with the same batches. Afterwards the observers of each rank
    know what all have seen: ranges to the bit as in one process, histograms too, moving averages as the mean of
    the ranks'. A rank that fails, or dies, ends the others with its error.

    Args:
        prepared: The result of `prepare_pt2e`; its observers change, nothing else does: state that the model itself
            writes, such as a cache, is put back afterwards.
        batches: One element a run: a tensor, a tuple of positional inputs, or a dict of inputs by name.
        progress: Wraps the batches to show progress, such as `tqdm.tqdm`; those of rank 0.
        shard: Whether each of n ranks takes every n-th batch. None does, save for a loader with a `DistributedSampler`;
            False is for batches that differ from rank to rank already.
        checkpoint: A file to save to now and then, and when interrupted. Where it is there already, its batches are
            skipped, and calibration goes on from what it knows. Ranks have one each, ending in ".rank0" and so on.

    Returns:
        The number of batches, of all ranks, and those of the checkpoint among them.

    Raises:
        CalibrationError: There are no batches, or one is of another kind, or not what the model was exported for; the
            checkpoint is of another model; another rank has failed.
        NonFiniteError: NaN or infinity reached an observer; names the layer.
        NotPreparedError: The model holds no observers.
        UnsupportedError: With several ranks or a checkpoint: observers are of another library, or cannot be merged.
    """
    require_prepared(prepared, "calibrate")
    world = ranks()
    if world > 1:
        count = _calibrate_together(prepared, batches, progress, shard, checkpoint)
    else:
        saved = None if checkpoint is None else _checkpoint(prepared, Path(checkpoint), 1)
        count = _run(prepared, batches if progress is None else progress(batches), saved)
    if count == 0:
        message = "the calibration data holds no batch at all; give at least one (has an iterator been used up before?)"
        raise CalibrationError(message)
    return count


def _checkpoint(prepared: GraphModule, path: Path, world: int) -> Checkpoint:
    return Checkpoint(path, observers_of(prepared, "a checkpoint"), world)


def _run(
    prepared: GraphModule,
    batches: Iterable[Any],
    checkpoint: Checkpoint | None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Run batches and return how many there were, with those before them."""
    count = 0 if checkpoint is None else checkpoint.resume()
    with torch.no_grad(), _state_kept(prepared):
        try:
            for batch in itertools.islice(batches, count, None):
                check()
                run_batch(prepared, batch, count)
                count += 1
                if checkpoint is not None:
                    checkpoint.save_now_and_then(count)
        finally:
            if checkpoint is not None and count:
                checkpoint.save(count)
    return count


def _calibrate_together(
    prepared: GraphModule,
    batches: Iterable[Any],
    progress: Progress | None,
    shard: bool | None,
    checkpoint: str | Path | None,
) -> int:
    """Run this rank's batches while watching the others, and merge what all have seen."""
    rank, watch = dist.get_rank(), RankWatch()
    try:
        with watch:
            observers = observers_of(prepared, "calibration on several ranks")
            for observer in observers.values():
                if not observer.merges:
                    observer.merge([observer] * ranks())  # says so before any data
            saved = None if checkpoint is None else _checkpoint(prepared, Path(f"{checkpoint}.rank{rank}"), ranks())
            own = batches if shard is False else shard_of(batches)
            shown = progress(own) if progress is not None and rank == 0 else own
            count = _run(prepared, shown, saved, watch.check)
        counts, snapshots = zip(*watch.gather((count, snapshots_of(observers))), strict=True)
        merge_observers(observers, snapshots)
        return sum(counts)
    finally:
        watch.close()


@contextlib.contextmanager
def _state_kept(model: GraphModule) -> Iterator[None]:
    """Put back, after the block, what the model's own ops have written into its buffers."""
    before = {tensor: tensor.detach().clone() for _path, graph in graphs_of(model) for tensor in written_tensors(graph)}
    try:
        yield
    finally:
        for tensor, value in before.items():
            tensor.detach().copy_(value)
