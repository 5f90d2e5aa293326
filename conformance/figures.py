"""The figures that checks record: what each key of `Outcome.numbers` means, and what a case that has them can be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from quantizer_sdk.conformance.outcome import Outcome, Status, case_check

__all__ = ["ALWAYS", "FIGURES", "TO_PASS", "Rule", "broken_rules"]

FIGURES: Mapping[str, str] = MappingProxyType(
    {
        "elements": "codes compared",
        "mismatches": "codes that differ from the expected ones",
        "allowed": "how many of them may differ",
        "outside": "codes that differ and that no arithmetic within δ explains",
        "near_tie": "elements within δ of a tie: the most that may differ where δ < 1/2",
        "max_lsb": "the largest difference in codes",
        "mean_error": "mean of actual minus expected code",
        "z": "mean error in units of its standard deviation, were errors to go either way alike",
        "sqnr_db": "signal-to-noise ratio against the float model, in dB",
        "baseline_db": "the same of a plain min-max quantizer of that bit width",
        "allowed_db": "by how many dB it may lie below the baseline: 3, and what few values cannot tell apart",
        "delta_max": "the largest allowance δ on the value before rounding, in codes",
        "ties": "elements that lie exactly on a tie",
        "distinct_codes": "different codes in the output",
        "saturated": "fraction of the output at either end of the range",
        "error_histogram": "number of codes by actual minus expected code",
        "half_distances": "histogram of the distance to the nearest tie, of all codes and of those that differ",
    }
)
"""What the keys mean, the same in every check: sums and largest values where a case has several outputs or inputs.

"error_histogram" maps each error that occurs, as a decimal string, to a number of codes. "half_distances" holds
"edges", the n + 1 ascending bounds of n bins, and the numbers of codes in each: "counts" of all, "mismatches" of those
that differ; edges that are the same in all cases let a report add them up. A check may record other keys; no rule reads
these.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Something that figures must satisfy.

    Attributes:
        states: What must hold, in words.
        needs: The keys it speaks of; it is silent where one is missing.
        holds: Whether it does, given figures that have these keys and fit the schema.
    """

    states: str
    needs: tuple[str, ...]
    holds: Callable[[Mapping[str, Any]], bool]


def _total(numbers: Mapping[str, Any]) -> int:
    return sum(numbers["error_histogram"].values())


def _mean_fits(numbers: Mapping[str, Any]) -> bool:
    """Whether the mean is that of the histogram, up to rounding the mean to three digits."""
    errors: dict[int, int] = {int(error): count for error, count in numbers["error_histogram"].items()}
    total = max(sum(errors.values()), 1)
    mean = sum(error * count for error, count in errors.items()) / total
    spread = sum(abs(error) * count for error, count in errors.items()) / total
    stated: float = numbers["mean_error"]
    return abs(mean - stated) <= 1e-3 * spread + 1e-6


def _bins_fit(numbers: Mapping[str, Any]) -> bool:
    edges, counts, mismatches = (numbers["half_distances"][key] for key in ("edges", "counts", "mismatches"))
    ascending = all(low < high for low, high in itertools.pairwise(edges))
    return ascending and len(edges) - 1 == len(counts) == len(mismatches)


def _bins_hold(numbers: Mapping[str, Any]) -> bool:
    bins = numbers["half_distances"]
    return all(some <= every for some, every in zip(bins["mismatches"], bins["counts"], strict=False))


ALWAYS: tuple[Rule, ...] = (
    Rule(
        states="no more mismatches than elements",
        needs=("elements", "mismatches"),
        holds=lambda n: n["mismatches"] <= n["elements"],
    ),
    Rule(
        states="no more codes outside than mismatches",
        needs=("mismatches", "outside"),
        holds=lambda n: n["outside"] <= n["mismatches"],
    ),
    Rule(
        states="no more near ties than elements",
        needs=("elements", "near_tie"),
        holds=lambda n: n["near_tie"] <= n["elements"],
    ),
    Rule(
        states="no more ties than elements",
        needs=("elements", "ties"),
        holds=lambda n: n["ties"] <= n["elements"],
    ),
    Rule(
        states="no more distinct codes than elements",
        needs=("elements", "distinct_codes"),
        holds=lambda n: n["distinct_codes"] <= n["elements"],
    ),
    Rule(
        states="a largest difference if and only if there are mismatches",
        needs=("mismatches", "max_lsb"),
        holds=lambda n: (n["mismatches"] > 0) == (n["max_lsb"] > 0),
    ),
    Rule(
        states="as many codes in the error histogram as elements",
        needs=("elements", "error_histogram"),
        holds=lambda n: _total(n) == n["elements"],
    ),
    Rule(
        states="as many codes in the error histogram beside 0 as mismatches",
        needs=("mismatches", "error_histogram"),
        holds=lambda n: _total(n) - n["error_histogram"].get("0", 0) == n["mismatches"],
    ),
    Rule(
        states="the largest difference that the error histogram shows",
        needs=("max_lsb", "error_histogram"),
        holds=lambda n: (
            max((abs(int(error)) for error, count in n["error_histogram"].items() if count), default=0) == n["max_lsb"]
        ),
    ),
    Rule(
        states="the mean of the error histogram",
        needs=("mean_error", "error_histogram"),
        holds=_mean_fits,
    ),
    Rule(
        states="ascending edges of half-distances, one more than there are counts and mismatches",
        needs=("half_distances",),
        holds=_bins_fit,
    ),
    Rule(
        states="no more mismatches than codes in any bin of half-distances",
        needs=("half_distances",),
        holds=_bins_hold,
    ),
    Rule(
        states="no more half-distances than elements",
        needs=("elements", "half_distances"),
        holds=lambda n: sum(n["half_distances"]["counts"]) <= n["elements"],
    ),
)
"""What holds of the figures of every case, whatever its status."""

_ONLY_NEAR_TIES = Rule(
    states="no more mismatches than near ties, as δ < 1/2",
    needs=("mismatches", "near_tie", "delta_max"),
    holds=lambda n: n["delta_max"] >= 0.5 or n["mismatches"] <= n["near_tie"],
)
_PROVES_SOMETHING = Rule(
    states="more than one code in the output, not all at the ends of the range",
    needs=("elements", "distinct_codes", "saturated"),
    holds=lambda n: n["elements"] <= 1 or (n["distinct_codes"] > 1 and n["saturated"] < 1),
)

TO_PASS: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "*": (
            Rule(states="nothing outside of δ", needs=("outside",), holds=lambda n: n["outside"] == 0),
            Rule(
                states="no more mismatches than allowed",
                needs=("mismatches", "allowed"),
                holds=lambda n: n["mismatches"] <= n["allowed"],
            ),
        ),
        "K1": (
            Rule(
                states="no mismatches with what the profile predicts, unless some are allowed",
                needs=("mismatches",),
                holds=lambda n: "allowed" in n or n["mismatches"] == 0,
            ),
            _PROVES_SOMETHING,
        ),
        "K2": (_ONLY_NEAR_TIES, _PROVES_SOMETHING),
        "R1": (_ONLY_NEAR_TIES, _PROVES_SOMETHING),
        "R2": (
            Rule(
                states="a signal-to-noise ratio below the baseline by no more than is allowed",
                needs=("sqnr_db", "baseline_db", "allowed_db"),
                holds=lambda n: n["sqnr_db"] >= n["baseline_db"] - n["allowed_db"] - 0.01,
            ),
        ),
    }
)
"""What must hold besides of a case that is to PASS, by its check; "*" stands for every check."""


def broken_rules(outcome: Outcome) -> tuple[str, ...]:
    """Return what the figures of a case do not satisfy but must, in words."""
    rules = ALWAYS
    if outcome.status is Status.PASS:
        rules += TO_PASS["*"] + TO_PASS.get(case_check(outcome.id), ())
    numbers = outcome.numbers
    applying = (rule for rule in rules if all(key in numbers for key in rule.needs))
    return tuple(rule.states for rule in applying if not rule.holds(numbers))
