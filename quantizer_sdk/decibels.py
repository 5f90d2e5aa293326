"""Signal to noise in decibels, as a number and in words."""

from __future__ import annotations

import math

__all__ = ["in_db", "to_db"]


def to_db(signal: float, noise: float) -> float:
    """Return 10·log10(signal / noise); infinity where there is no noise, minus infinity for noise without a signal."""
    if noise == 0:
        return math.inf
    if math.isnan(signal) or math.isnan(noise):
        return math.nan
    return 10 * math.log10(signal / noise) if signal > 0 and noise < math.inf else -math.inf


def in_db(ratio: float | None) -> str:
    """Return "23.4 dB", or a word where there is no number."""
    if ratio is None:
        return ""
    if math.isnan(ratio):
        return "NaN"
    return "exact" if ratio == math.inf else f"{ratio:.1f} dB"
