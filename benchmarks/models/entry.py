"""What the benchmark knows of a model: how to make it, what to feed it, how to quantize it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import nn

__all__ = ["Entry", "Inputs", "Scheme"]

Inputs = tuple[torch.Tensor, ...]


class Scheme(Enum):
    """How ops are quantized: weights always int8 per channel."""

    STATIC = "static"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model.

    Attributes:
        name: What the command line calls it.
        build: Returns it in eval mode, for inputs of a size; raises MissingDependencyError where it comes from a
            package that is not installed.
        examples: Returns that many different inputs of a size, always the same.
        size: Of the inputs measured on: pixels, tokens, frames, samples or rows, as the model counts.
        small: Of the inputs that tests run on.
        schemes: The scheme of each type of module; None stands for all ops that are in no module of another type. Ops
            that nothing covers stay float.
        calibration: How many inputs the quantizers see. With 8, luck decided by 1 to 2 dB: the range of a global
            pool's results, one number an image and channel, is not seen in so few.
        held_out: How many other inputs their programs are judged on.
        drawn: Returns it, for inputs of a size, with the weights of another seed than `build`'s, which is 0; None where
            they are trained, or nothing asks for that.
    """

    name: str
    build: Callable[[int], nn.Module]
    examples: Callable[[int, int], list[Inputs]]
    size: int
    small: int
    schemes: tuple[tuple[type[nn.Module] | None, Scheme], ...] = ((None, Scheme.STATIC),)
    calibration: int = 32
    held_out: int = 32
    drawn: Callable[[int, int], nn.Module] | None = None

    @property
    def scheme_name(self) -> str:
        """Such as "static", or "static, Linear dynamic"."""
        parts = (f"{'' if kind is None else kind.__name__ + ' '}{scheme.value}" for kind, scheme in self.schemes)
        return ", ".join(parts)
