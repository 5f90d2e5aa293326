"""Ranks that work apart tell each other how they fare, so that none waits for one that has failed or died."""

from __future__ import annotations

import datetime as dt
import re
import threading
from types import TracebackType
from typing import Any

import torch.distributed as dist

from quantizer_sdk.errors import CalibrationError

__all__ = ["RankWatch"]

_PATIENCE = dt.timedelta(seconds=20)  # after which a silent rank counts as dead
_PAUSE = 0.2  # seconds between two rounds
_MISSING = re.compile(r"\[Rank 0\]: Ranks? ([\d, ]+) failed")


class RankWatch:
    """A context in which a rank works by itself while a thread exchanges words with the other ranks.

    All ranks enter and leave it. The words go by collectives of a gloo group of their own, which work beside whatever
    the ranks do. Leaving it waits for all; where one has failed, the others raise as soon as they `check`.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._failure: str | None = None
        self._status: tuple[str, str] = ("working", "")
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._exchange, name="rank watch", daemon=True)

    def __enter__(self) -> RankWatch:  # noqa: PYI034  # Python 3.10 has no Self
        self._group = dist.new_group(backend="gloo")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._status = ("done", "")
        elif self._failure is None:
            self._status = ("failed", f"{type(error).__name__}: {error}")
        self._left.set()
        self._thread.join()
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise what another rank has failed with.

        Raises:
            CalibrationError: One has failed, or does not answer; names it.
        """
        if self._failure is not None:
            raise CalibrationError(self._failure)

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of ranks; call it after the context was left."""
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self._group)
        return values

    def close(self) -> None:
        """Give up the group."""
        dist.destroy_process_group(self._group)

    def _exchange(self) -> None:
        """Tell and hear until all are done, or one is not going to be."""
        world, own = dist.get_world_size(), dist.get_rank()
        while True:
            status, heard = self._status, [("", "")] * world
            try:
                dist.monitored_barrier(self._group, timeout=_PATIENCE, wait_all_ranks=True)
                dist.all_gather_object(heard, status, group=self._group)
            except RuntimeError as e:
                self._failure = self._lost(str(e), own, world)
                return
            failed = [(rank, words) for rank, (state, words) in enumerate(heard) if state == "failed"]
            if failed:
                others = "; ".join(f"rank {rank} failed: {words}" for rank, words in failed if rank != own)
                self._failure = others or None
                return
            if all(state == "done" for state, _words in heard):
                return
            self._left.wait(_PAUSE)

    def _lost(self, words: str, own: int, world: int) -> str:
        """Say which rank is gone, as far as this rank can know: rank 0 hears of all, the others of rank 0."""
        found = _MISSING.search(words)
        if own == 0 and found is None:  # a collective broke off; ask once more who is there
            try:
                dist.monitored_barrier(self._group, timeout=dt.timedelta(seconds=5), wait_all_ranks=True)
            except RuntimeError as e:
                found = _MISSING.search(str(e))
        if found is not None:
            gone = found[1].strip()
        elif world == 2:  # two ranks: it is the other one
            gone = str(1 - own)
        else:
            return (
                f"rank 0 does not answer any more: it has ended, or has lost another rank, as its error says ({words})"
            )
        return f"rank {gone} does not answer any more: has its process ended?"
