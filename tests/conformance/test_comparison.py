"""Counts and statistics over many comparisons."""

from fractions import Fraction

import pytest
import torch

from quantizer_sdk.conformance.comparison import Comparison
from quantizer_sdk.conformance.verdict import Requantized


def target(r, zero_point=0):
    r = torch.tensor(r, dtype=torch.float64)
    return Requantized(
        expected=(r.round() + zero_point).clamp(-128, 127).to(torch.int64),
        r=r,
        half_distance=(r - r.floor() - 0.5).abs(),
        scale=Fraction(1),
        zero_point=zero_point,
        quant_min=-128,
        quant_max=127,
    )


def compared(r, error, delta):
    wanted = target(r)
    comparison = Comparison()
    actual = wanted.expected + torch.tensor(error, dtype=torch.int64)
    comparison.add("q", actual, wanted, torch.full(wanted.r.shape, delta, dtype=torch.float64))
    return comparison


def test_counts_add_up_over_sites():
    comparison = compared([0.2, 1.4999, 7.0], [0, 1, 0], 1e-3)
    comparison.add("other", torch.tensor([5]), target([3.0]), torch.tensor([1e-3], dtype=torch.float64))
    numbers = comparison.numbers()
    assert (numbers["elements"], numbers["mismatches"], numbers["outside"], numbers["max_lsb"]) == (4, 2, 1, 2)
    assert numbers["error_histogram"] == {"0": 2, "1": 1, "2": 1}
    assert sum(numbers["half_distances"]["counts"]) == 4
    assert sum(numbers["half_distances"]["mismatches"]) == 2
    assert "worst in other" in str(comparison)


def test_mismatches_beyond_what_chance_explains_are_counted_against_the_bound():
    r = [k + 0.4999 for k in range(100)]
    comparison = compared(r, [1] * 100, 1e-3)
    assert comparison.outside == 0
    assert comparison.near_tie == 100
    assert comparison.allowed < 5 < comparison.mismatches


@pytest.mark.parametrize(("errors", "biased"), [([1, -1] * 20, False), ([1] * 40, True), ([1] * 3, False)])
def test_errors_that_go_one_way_are_a_bias(errors, biased):
    r = [(k % 100) + 0.4999 for k in range(len(errors))]
    assert compared(r, errors, 1.0).biased is biased


@pytest.mark.parametrize(
    ("r", "words"),
    [
        ([5.0] * 100, "100 codes take 1 values; expected 4 or more"),
        ([300.0 + k for k in range(96)] + [1.0, 2.0, 3.0, 4.0], "96 of 100 codes lie at the ends"),
        ([], "there are no codes"),
        ([1.0], None),
        ([float(k) for k in range(100)], None),
    ],
)
def test_codes_that_prove_nothing_are_mistrusted(r, words):
    found = compared(r, [0] * len(r), 1e-6).mistrusted
    assert found is words if words is None else words in found


@pytest.mark.parametrize(
    ("r", "reason"),
    [
        ([3.0, 3.2], "all 2 codes are the same"),
        ([900.0, -900.0], "all 2 codes are at the ends"),
        ([3.0], None),
        ([3.0, 4.0], None),
    ],
    ids=["same", "ends", "one code", "different"],
)
def test_results_that_any_kernel_gives_prove_nothing(r, reason):
    found = compared(r, [0] * len(r), 1e-3).vacuous
    assert found == reason if reason is None else found.startswith(reason)
