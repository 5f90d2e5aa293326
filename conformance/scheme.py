"""What the name of a configuration promises: activations static or dynamic, and how many bits its weights have.

A name is `s8` or `d8` (activations with qparams from calibration, or of each run's own data), `.w4` where weights have
other than 8 bits, and the weights' granularity: `pt` one scale, `pc` one a channel, `g32` one for each 32 neighbours.
Where a backend has parts, `@` and the part's name follow, as in `d8.pc@onednn`.
Checks hold the quantizer to what the name says. Any other name, such as `default` or `u8.pc`, promises static
activations and weights of 8 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Scheme", "plain_schemes"]

_NAME = re.compile(r"(?P<kind>[sd])\d+(?:\.w(?P<bits>\d+))?\.(?:p[tc]|g(?P<group>\d+))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """What a configuration is called for.

    Attributes:
        dynamic: Whether activations get their qparams from each run's data.
        weight_bits: How many bits a weight's code has.
        group: How many neighbours of a weight share one scale; None for a channel or the tensor.
    """

    dynamic: bool = False
    weight_bits: int = 8
    group: int | None = None

    @classmethod
    def named(cls, name: str) -> Scheme:
        """Read a configuration's name."""
        found = _NAME.fullmatch(name.partition("@")[0])
        if found is None:
            return cls()
        group = found["group"]
        return cls(
            dynamic=found["kind"] == "d",
            weight_bits=int(found["bits"] or 8),
            group=None if group is None else int(group),
        )

    @property
    def plain(self) -> bool:
        """Whether it is what nearly all backends have: static activations, weights of 8 bits."""
        return not self.dynamic and self.weight_bits == 8


def plain_schemes(names: Iterable[str]) -> tuple[str, ...]:
    """Return those names that promise what nearly all backends have."""
    return tuple(name for name in names if Scheme.named(name).plain)
