"""Which of the batches a rank takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from quantizer_sdk.errors import CalibrationError

__all__ = ["shard_of"]


def shard_of(batches: Iterable[Any]) -> Iterable[Any]:
    """Return every n-th batch for this one of n ranks, all batches going to one rank each.

    A loader's own sampler decides once, on rank 0, what the batches are, so that those of a shuffling loader are
    dealt out without any twice; batches of other ranks are not loaded. A loader with a `DistributedSampler` shards
    already, and is left as it is. Of what can only be iterated over, each rank makes all and takes its own.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    if isinstance(batches, DataLoader):
        if isinstance(batches.sampler, DistributedSampler):
            return batches
        if not isinstance(batches.dataset, IterableDataset):
            return _loader_of(batches, rank, world)
    if isinstance(batches, Sequence):
        return batches[rank::world]
    return itertools.islice(batches, rank, None, world)


def _loader_of(loader: DataLoader[Any], rank: int, world: int) -> DataLoader[Any]:
    """Return a loader of the same dataset, for this rank's batches."""
    dealt: list[Any] = [None]
    batched = loader.batch_sampler is not None
    if rank == 0:
        try:
            dealt = [list(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)]
        except Exception as e:  # noqa: BLE001  # a sampler may raise anything, and others wait for an answer
            dealt = [e]
    dist.broadcast_object_list(dealt)
    if isinstance(dealt[0], Exception):
        message = f"the sampler of rank 0's loader failed: {type(dealt[0]).__name__}: {dealt[0]}"
        raise CalibrationError(message) from dealt[0]
    return DataLoader(
        loader.dataset,
        batch_size=1 if batched else None,
        sampler=None if batched else dealt[0][rank::world],
        batch_sampler=dealt[0][rank::world] if batched else None,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        prefetch_factor=loader.prefetch_factor,
    )
