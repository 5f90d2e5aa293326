"""How many mismatches, and of which sign, chance allows next to ties."""

from __future__ import annotations

import math

__all__ = ["most_by_chance", "z_score"]


def most_by_chance(expected: float, confidence: float = 0.999) -> int:
    """Return the largest count of rare independent events that is not yet surprising: a Poisson quantile.

    Mismatches are such events: each element is one with its own small probability, of which `expected` is the sum, and
    the sum of independent Bernoulli variables has no heavier tail than a Poisson variable of the same mean.

    Args:
        expected: The mean, 0 or more.
        confidence: The probability that the count stays within the bound.
    """
    if expected > 700:  # where exp(-mean) underflows the normal approximation is exact enough
        return math.ceil(expected + 3.2 * math.sqrt(expected))
    term = total = math.exp(-expected)
    count = 0
    while total < confidence and count < 10_000:
        count += 1
        term *= expected / count
        total += term
    return count


def z_score(signed: int, count: int) -> float:
    """Return how far a sum of `count` signs lies from 0, in standard deviations of fair coins."""
    return signed / math.sqrt(count) if count else 0.0
