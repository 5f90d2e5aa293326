"""Keeps Python's cycle collector from searching a growing graph over and over while passes build it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["without_collection"]


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pause the cycle collector for the block.

    Passes make many objects, nearly all of which stay: a collection frees nothing, and takes a quarter of the time of
    a conversion.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
