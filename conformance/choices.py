"""Random choices that are the same on every machine and under every version of Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = ["Choices"]

_T = TypeVar("_T")


class Choices:
    """Decisions that depend on a key and on their own names alone.

    Each is read off the BLAKE2b hash (RFC 7693) of the key and the decision's name, so there is no state and no order
    of calls: what one decision comes to leaves all others as they are. An option's rank among others depends on its own
    text only, so that a further option changes just those decisions that it wins.

    Args:
        *key: Numbers and strings; other objects by their text.
    """

    def __init__(self, *key: object) -> None:
        self._key = key

    def within(self, *name: object) -> Choices:
        """Return the choices of a part, which has its own names."""
        return Choices(*self._key, *name)

    def below(self, bound: int, *name: object) -> int:
        """Return a number from 0 to bound - 1; each is equally likely, but for one part in 2^50 or less."""
        return self._number(*name) % bound

    def between(self, low: int, high: int, *name: object) -> int:
        """Return a number from low to high, both included."""
        return low + self.below(high - low + 1, *name)

    def chance(self, percent: int, *name: object) -> bool:
        """Return True so many times in a hundred."""
        return self.below(100, *name) < percent

    def order(self, options: Iterable[_T], *name: object) -> list[_T]:
        """Return the options in random order; those of the same text stay as they are."""
        return sorted(options, key=lambda option: self._number(*name, option))

    def pick(self, options: Sequence[_T], *name: object) -> _T:
        """Return one of the options."""
        return min(options, key=lambda option: self._number(*name, option))

    def _number(self, *name: object) -> int:
        text = "\x1f".join(str(part) for part in (*self._key, *name))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
