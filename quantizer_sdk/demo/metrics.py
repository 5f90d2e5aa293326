"""The demo's figures of merit: signal to noise, classes, and latency measured in turn."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from quantizer_sdk.decibels import to_db

__all__ = [
    "agreement",
    "interleaved_medians",
    "interleaved_times",
    "median_interval",
    "noise_percent",
    "power",
    "sqnr_db",
    "to_db",
    "top1",
]

_TAIL = 0.025
"""How seldom a median may lie beyond one end of its interval."""


def power(tensor: torch.Tensor) -> float:
    """Return the sum of squares, accumulated in float64."""
    return float(tensor.to(torch.float64).square().sum())


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


def interleaved_times(
    programs: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time programs in turn, one call of each a round, and return the milliseconds of each one's rounds.

    In turn, so that a machine that slows down slows all of them: compare what was measured in the same round. Every
    round has an order of its own, drawn from a fixed seed, so that none always runs in the same other's wake.

    Args:
        programs: What to call, by name.
        repeats: Timed rounds.
        warmup: Rounds before them that are not timed.
        clock: Returns seconds.
    """
    order = random.Random(0)  # noqa: S311  nothing here is secret
    names = list(programs)
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(warmup + repeats):
        for name in order.sample(names, len(names)):
            start = clock()
            programs[name]()
            elapsed = clock() - start
            if round_number >= warmup:
                milliseconds[name].append(1e3 * elapsed)
    return milliseconds


def interleaved_medians(
    programs: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median of each program's `interleaved_times`, which has the same arguments, in milliseconds."""
    times = interleaved_times(programs, repeats=repeats, warmup=warmup, clock=clock)
    return {name: statistics.median(found) for name, found in times.items()}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return two of the values between which the true median lies at least 19 times of 20, or all of them if too few.

    It assumes no distribution: the median has as many values on either side as a fair coin has heads.
    """
    count, ordered = len(values), sorted(values)
    rank, chance = 0, 0.0
    while (chance := chance + math.comb(count, rank) / 2**count) <= _TAIL:
        rank += 1
    outside = max(rank - 1, 0)
    return ordered[outside], ordered[count - 1 - outside]


def _difference(reference: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    """Subtract in float64 what must have one shape."""
    if reference.shape != actual.shape:
        raise ValueError(f"cannot compare tensors of shapes {tuple(reference.shape)} and {tuple(actual.shape)}")
    return reference.to(torch.float64) - actual.to(torch.float64)
