"""Calibrates on several ranks, case by case, and saves what each rank knows then. Run by torchrun."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from calibration_cases import OBSERVERS, batches_of, prepared_with
from torch.utils.data import DataLoader, DistributedSampler

from quantizer_sdk import CalibrationError, calibrate
from quantizer_sdk.observers import MinMaxObserver, ObserverBase


class Unmerged(MinMaxObserver):
    """Does not say how it is merged."""

    merge = ObserverBase.merge


def _first(items):
    return items[0]


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {}

    def record(name, function):
        try:
            found[name] = function()
        except Exception as e:  # noqa: BLE001  # what it raises is what is looked at
            found[name] = f"{type(e).__name__}: {e}"

    def calibrated(kind, data, **options):
        prepared = prepared_with(kind)
        count = calibrate(prepared, data, **options)
        return count, prepared.state_dict()

    for name, kind in OBSERVERS.items():
        record(name, lambda kind=kind: calibrated(kind, batches_of(7)))
    record("one batch", lambda: calibrated(MinMaxObserver, batches_of(1)))
    record("none", lambda: calibrated(MinMaxObserver, []))
    record("iterator", lambda: calibrated(MinMaxObserver, iter(batches_of(7))))
    for name, size in (("shuffled loader", 1), ("shuffled loader without batches", None)):
        loader = DataLoader(batches_of(7), batch_size=size, shuffle=True, collate_fn=_first if size else None)
        record(name, lambda loader=loader: calibrated(MinMaxObserver, loader))
    rows = torch.cat(batches_of(6))
    sharded = DataLoader(rows, batch_size=4, sampler=DistributedSampler(rows, shuffle=False))
    record("sharded loader", lambda: calibrated(MinMaxObserver, sharded))
    own = batches_of(7)[:4] if rank == 0 else batches_of(7)[4:]
    record("unsharded", lambda: calibrated(MinMaxObserver, own, shard=False))

    def failing():
        for index, batch in enumerate(batches_of(40 if rank == 0 else 3)):
            if rank == 1 and index == 2:
                raise ValueError("the disk is gone")
            yield batch

    record("failing", lambda: calibrated(MinMaxObserver, failing(), shard=False))
    record("after a failure", lambda: calibrated(MinMaxObserver, batches_of(7)))
    record("unmerged", lambda: calibrated(Unmerged, batches_of(7)))

    def interrupted():
        for index, batch in enumerate(batches_of(7)):
            if index == 4:
                raise CalibrationError("stop here")
            yield batch

    path = Path(folder, "checkpoint")
    record("interrupted", lambda: calibrated(MinMaxObserver, interrupted(), checkpoint=path))
    record("resumed", lambda: calibrated(MinMaxObserver, batches_of(7), checkpoint=path))
    torch.save(found, Path(folder, f"rank{rank}.pt"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
