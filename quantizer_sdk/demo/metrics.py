"""The demo's figures of merit: signal to noise, classes, and latency measured in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch

__all__ = ["agreement", "interleaved_medians", "noise_percent", "power", "sqnr_db", "to_db", "top1"]


def power(tensor: torch.Tensor) -> float:
    """Return the sum of squares, accumulated in float64."""
    return float(tensor.to(torch.float64).square().sum())


def to_db(signal: float, noise: float) -> float:
    """Return 10·log10(signal / noise); infinity where there is no noise, minus infinity for noise without a signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def sqnr_db(reference: torch.Tensor, actual: torch.Tensor) -> float:
    """Return 10·log10(Σ reference² / Σ (reference - actual)²) in dB, pooled over all elements.

    Raises:
        ValueError: The shapes differ; they are not broadcast.
    """
    return to_db(power(reference), power(_difference(reference, actual)))


def noise_percent(reference: torch.Tensor, quantized: torch.Tensor, kernel: torch.Tensor) -> float:
    """Return the power of the noise quantized→kernel as a percentage of that of reference→quantized.

    Says whether the kernels add anything that matters to what quantization itself costs. Without quantization noise
    it is infinite, or 0 where the kernels add none either.

    Raises:
        ValueError: The shapes differ.
    """
    added, present = power(_difference(quantized, kernel)), power(_difference(reference, quantized))
    if present == 0:
        return math.inf if added else 0.0
    return 100 * added / present


def top1(logits: torch.Tensor, labels: torch.Tensor) -> int:
    """Return for how many rows of [N, classes] the largest logit is the label's."""
    return int((logits.argmax(dim=1) == labels).sum())


def agreement(logits: torch.Tensor, reference: torch.Tensor) -> int:
    """Return for how many rows the largest logits of two models are the same class's, right or wrong."""
    return top1(logits, reference.argmax(dim=1))


def interleaved_medians(
    programs: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time programs in turn, one call of each a round, and return each one's median in milliseconds.

    In turn, so that a machine that slows down slows all of them; every round starts with the next program, so that
    none always runs in the same other's wake.

    Args:
        programs: What to call, by name.
        repeats: Timed rounds.
        warmup: Rounds before them that are not timed.
        clock: Returns seconds.
    """
    names = list(programs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(warmup + repeats):
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            programs[name]()
            elapsed = clock() - start
            if round_number >= warmup:
                seconds[name].append(elapsed)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def _difference(reference: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    """Subtract in float64 what must have one shape."""
    if reference.shape != actual.shape:
        raise ValueError(f"cannot compare tensors of shapes {tuple(reference.shape)} and {tuple(actual.shape)}")
    return reference.to(torch.float64) - actual.to(torch.float64)
