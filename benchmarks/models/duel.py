"""Two ONNX files against each other, in several processes: `python -m models.duel A.onnx B.onnx X.pt --json OUT`.

Where a process puts the weights moves a ratio by a percent, so one process says little, however long it measures.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from models.apart import measured_apart
from quantizer_sdk.backends.onnxruntime import SessionSettings, load_onnx
from quantizer_sdk.demo.metrics import interleaved_times

__all__ = ["duel"]

_PROCESSES = 9
_ROUNDS = 40
_ROUND_SECONDS = 0.01
_WARM_UP = 3
_PATIENCE = 120


def duel(ours: bytes, theirs: bytes, inputs: tuple[torch.Tensor, ...]) -> list[float]:
    """Return how many times as fast as another file one is: the median ratio of each of several fresh processes.

    They load the files in either order, in turn.

    Raises:
        ValueError: A process fails.
    """
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("ours.onnx", "theirs.onnx", "inputs.pt")]
        paths[0].write_bytes(ours)
        paths[1].write_bytes(theirs)
        torch.save(inputs, paths[2])
        for number in range(_PROCESSES):
            first, second = paths[:2] if number % 2 else paths[1::-1]
            found, death = measured_apart("models.duel", [*map(str, (first, second, paths[2]))], patience=_PATIENCE)
            if found is None:
                raise ValueError(death)
            ratios.append(found["speed"] if number % 2 else 1 / found["speed"])
    return ratios


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    inputs = torch.load(options.inputs)
    runs = [load_onnx(path, SessionSettings(exact_sums=False)).run for path in (options.first, options.second)]
    start = time.process_time()
    for run in runs * _WARM_UP:
        run(*inputs)
    calls = max(1, round(_ROUND_SECONDS * len(runs) * _WARM_UP / (time.process_time() - start)))

    def repeated(place: int) -> None:
        for _ in range(calls):
            runs[place](*inputs)

    turns = {str(place): functools.partial(repeated, place) for place in range(len(runs))}
    first, second = interleaved_times(turns, repeats=_ROUNDS, clock=time.process_time).values()
    speed = statistics.median(other / own for own, other in zip(first, second, strict=True))
    options.json.write_text(json.dumps({"speed": speed}), encoding="utf-8")


if __name__ == "__main__":
    _main()
