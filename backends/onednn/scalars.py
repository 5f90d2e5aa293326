"""Numbers as tensors without axes: torch's arithmetic takes these sooner than Python's numbers, to the same bits."""

from __future__ import annotations

import functools

import torch

__all__ = ["scalar"]


@functools.lru_cache(maxsize=4096)
def scalar(value: float) -> torch.Tensor:
    """Return a float32 tensor without axes, which nobody may write into."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")
