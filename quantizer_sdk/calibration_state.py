"""What observers know, as one value: saved to a file to go on from, and merged over ranks."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantizer_sdk.errors import CalibrationError, UnsupportedError
from quantizer_sdk.fake_quantize import FakeQuantizeBase
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.create import is_observer

__all__ = ["Checkpoint", "merge_observers", "observers_of", "snapshots_of"]

_SECONDS = 30.0  # between two savings


def observers_of(model: nn.Module, purpose: str) -> dict[str, ObserverBase]:
    """Return the observers of a model by their paths.

    Args:
        model: The prepared model.
        purpose: What they are wanted for, in words.

    Raises:
        UnsupportedError: One is a fake quantizer, or of another library, whose state is not known to be whole.
    """
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, ObserverBase):
            found[path] = module
        elif is_observer(module):
            words = "fake quantizers learn in training" if isinstance(module, FakeQuantizeBase) else "its library's own"
            raise UnsupportedError(
                f"{purpose} takes observers of this library; {path} is a {type(module).__name__}: {words}"
            )
    return found


def snapshots_of(observers: Mapping[str, ObserverBase]) -> dict[str, Any]:
    """Return what calibrated observers know."""
    return {path: observer.snapshot() for path, observer in observers.items() if observer.calibrated}


def merge_observers(observers: Mapping[str, ObserverBase], ranks: Sequence[Mapping[str, Any]]) -> None:
    """Let each observer know what those of all ranks know.

    Args:
        observers: This rank's, which are changed.
        ranks: What `snapshots_of` returned on each.
    """
    for path, observer in observers.items():
        known = [snapshots[path] for snapshots in ranks if path in snapshots]
        if not known or not known[0]["state"]:
            continue
        others = [copy.deepcopy(observer) for _ in known]
        for other, snapshot in zip(others, known, strict=True):
            other.restore(snapshot)
        observer.restore(known[0])
        observer.merge(others)


class Checkpoint:
    """A file with what observers know and how many batches they have seen.

    Args:
        path: The file; written anew every 30 seconds, whole or not at all.
        observers: Those of the model.
        ranks: How many ranks share the batches; each has a file of its own.
    """

    def __init__(self, path: Path, observers: Mapping[str, ObserverBase], ranks: int) -> None:
        self._path = path
        self._observers = observers
        self._ranks = ranks
        self._saved = time.monotonic()

    def resume(self) -> int:
        """Let the observers know what the file knows; return how many batches that is, 0 without a file.

        Raises:
            CalibrationError: The file is of another model, or of another number of ranks.
        """
        if not self._path.exists():
            return 0
        found = torch.load(self._path, weights_only=True)
        if found["paths"] != list(self._observers) or found["ranks"] != self._ranks:
            message = (
                f"{self._path} holds the calibration of {len(found['paths'])} observers on {found['ranks']} ranks, not "
                f"of these {len(self._observers)} on {self._ranks}; remove it to begin anew, or name another file"
            )
            raise CalibrationError(message)
        for path, snapshot in found["snapshots"].items():
            self._observers[path].restore(snapshot)
        return int(found["batches"])

    def save_now_and_then(self, batches: int) -> None:
        """Save if the last time is a while ago."""
        if time.monotonic() - self._saved >= _SECONDS:
            self.save(batches)

    def save(self, batches: int) -> None:
        """Write the file."""
        content = {
            "paths": list(self._observers),
            "ranks": self._ranks,
            "batches": batches,
            "snapshots": snapshots_of(self._observers),
        }
        unfinished = self._path.with_name(f"{self._path.name}.unfinished")
        torch.save(content, unfinished)
        unfinished.replace(self._path)
        self._saved = time.monotonic()
