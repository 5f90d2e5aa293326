"""Codes against the exact ones over many sites and runs: the counts that reports show, and statistics on them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.conformance.statistics import most_by_chance, z_score
from quantizer_sdk.conformance.ties import tie_fraction
from quantizer_sdk.conformance.verdict import Element, Requantized, judge

__all__ = ["Comparison"]

_EDGES = tuple(place / 20 for place in range(11))
_DIFFERENT_ENOUGH = 4
_SATURATED = 0.9
_Z = 3.29
"""The 99.9 % two-sided bound of a normal variable."""


class Comparison:
    """Gathers codes and the exact codes they should be."""

    def __init__(self) -> None:
        self.elements = self.mismatches = self.outside = self.near_tie = self.max_lsb = 0
        self.expected_mismatches = 0.0
        self.ties = 0.0
        self.delta_max = 0.0
        self.worst: tuple[str, Element] | None = None
        self._errors: Counter[int] = Counter()
        self._codes: set[int] = set()
        self._ends = 0
        self._bins = torch.zeros(2, len(_EDGES) - 1, dtype=torch.int64)

    def add(self, where: str, actual: Tensor, target: Requantized, delta: Tensor) -> None:
        """Take the codes at one quantize.

        Args:
            where: The quantize's name.
            actual: Codes of any integer dtype.
            target: The exact codes.
            delta: float64 allowance on r, elementwise.
        """
        verdict = judge(actual, target, delta)
        self.elements += verdict.elements
        self.mismatches += verdict.mismatches
        self.outside += verdict.outside
        self.near_tie += verdict.near_tie
        self.ties += tie_fraction(target) * verdict.elements
        if verdict.elements:
            self.delta_max = max(self.delta_max, float(delta.max()))
            # r's fraction is as good as uniform on generic scales: within δ of a half-integer with probability 2δ.
            inside = (target.r + target.zero_point > target.quant_min) & (
                target.r + target.zero_point < target.quant_max
            )
            self.expected_mismatches += float((2 * delta.expand(target.r.shape).clamp(max=0.5))[inside].sum())
        if verdict.worst is not None and (self.worst is None or verdict.max_lsb > self.max_lsb):
            self.worst = (where, verdict.worst)
        self.max_lsb = max(self.max_lsb, verdict.max_lsb)
        codes = actual.to(torch.int64).flatten()
        error = codes - target.expected.flatten()
        for value, count in zip(*torch.unique(error, return_counts=True), strict=True):
            self._errors[int(value)] += int(count)
        self._codes.update(torch.unique(codes).tolist())
        self._ends += int(((codes == target.quant_min) | (codes == target.quant_max)).sum())
        distance = target.half_distance.flatten()
        for row, some in enumerate((distance, distance[error != 0])):
            self._bins[row] += torch.histc(some, bins=len(_EDGES) - 1, min=0.0, max=0.5).to(torch.int64)

    @property
    def allowed(self) -> int:
        """How many mismatches chance explains, given δ."""
        return min(self.near_tie, most_by_chance(self.expected_mismatches))

    @property
    def z(self) -> float:
        """The sum of the errors' signs in standard deviations."""
        signed = sum((error > 0) * count - (error < 0) * count for error, count in self._errors.items())
        return z_score(signed, self.mismatches)

    @property
    def biased(self) -> bool:
        """Whether errors go one way more often than coins would."""
        return abs(self.z) > _Z

    @property
    def mistrusted(self) -> str | None:
        """Why the codes prove nothing, if so: vacuous, constant, too few different ones, or nearly all at the ends."""
        wanted = min(_DIFFERENT_ENOUGH, self.elements)
        if not self.elements:
            return "there are no codes"
        if len(self._codes) < wanted:
            return f"{self.elements} codes take {len(self._codes)} values; expected {wanted} or more"
        if self._ends > _SATURATED * self.elements:
            return f"{self._ends} of {self.elements} codes lie at the ends of the range"
        return self.vacuous

    @property
    def vacuous(self) -> str | None:
        """Why a comparison within δ proves nothing, if so.

        From a δ of 1/2 on every number is next to a tie; and any kernel gives the right code where there is only one.
        """
        if self.elements > 1 and (len(self._codes) == 1 or self._ends == self.elements):
            return (
                f"all {self.elements} codes are {'the same' if len(self._codes) == 1 else 'at the ends of the range'}"
            )
        if self.delta_max < 0.5:
            return None
        return f"the arithmetic's own error may reach {self.delta_max:.3g} codes, so that more than one code is right"

    def numbers(self) -> dict[str, Any]:
        """Return the figures by the names that reports know."""
        total = max(1, self.elements)
        return {
            "elements": self.elements,
            "mismatches": self.mismatches,
            "outside": self.outside,
            "near_tie": self.near_tie,
            "max_lsb": self.max_lsb,
            "mean_error": round(sum(error * count for error, count in self._errors.items()) / total, 9),
            "z": round(self.z, 4),
            "delta_max": float(f"{self.delta_max:.4g}"),
            "ties": round(self.ties),
            "distinct_codes": len(self._codes),
            "saturated": round(self._ends / total, 4),
            "error_histogram": {str(error): self._errors[error] for error in sorted(self._errors)},
            "half_distances": {
                "edges": list(_EDGES),
                "counts": self._bins[0].tolist(),
                "mismatches": self._bins[1].tolist(),
            },
        }

    def __str__(self) -> str:
        text = f"{self.mismatches} of {self.elements} codes differ, by at most {self.max_lsb}"
        if self.outside:
            text += f"; {self.outside} by more than δ explains"
        return text if self.worst is None else f"{text}; worst in {self.worst[0]} {self.worst[1]}"
