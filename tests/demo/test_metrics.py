import math
from collections import Counter
from itertools import count, pairwise
from math import comb

import pytest
import torch

from quantizer_sdk.demo.metrics import (
    agreement,
    interleaved_medians,
    interleaved_times,
    median_interval,
    noise_percent,
    sqnr_db,
    top1,
)


def test_sqnr_of_hand_computed_numbers():
    # signal 9 + 16 = 25, noise 0.5² = 0.25: a ratio of 100
    assert sqnr_db(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(20.0)


def test_sqnr_pools_over_all_rows():
    reference = torch.tensor([[10.0], [0.0]])
    actual = torch.tensor([[10.0], [1.0]])
    assert sqnr_db(reference, actual) == pytest.approx(20.0)


def test_sqnr_without_noise_is_infinite():
    assert sqnr_db(torch.ones(2), torch.ones(2)) == math.inf
    assert sqnr_db(torch.zeros(2), torch.zeros(2)) == math.inf


def test_sqnr_of_noise_alone_is_minus_infinity():
    assert sqnr_db(torch.zeros(2), torch.ones(2)) == -math.inf


def test_sqnr_does_not_lose_small_noise_in_float32():
    # In float32 the squares of a million values would swallow the difference.
    reference = torch.full((1_000_000,), 1000.0)
    actual = reference.clone()
    actual[0] += 0.125
    assert sqnr_db(reference, actual) == pytest.approx(10 * math.log10(1e12 / 0.125**2), abs=1e-6)


def test_sqnr_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        sqnr_db(torch.ones(2), torch.ones(1))


def test_noise_percent_of_hand_computed_numbers():
    reference, quantized = torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0])
    assert noise_percent(reference, quantized, torch.tensor([2.0, 1.0])) == pytest.approx(25.0)
    assert noise_percent(reference, quantized, quantized) == 0.0


def test_noise_percent_without_quantization_noise():
    exact = torch.ones(2)
    assert noise_percent(exact, exact, exact) == 0.0
    assert noise_percent(exact, exact, torch.zeros(2)) == math.inf


def test_top1_and_agreement():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert top1(logits, torch.tensor([1, 1, 1])) == 2
    assert agreement(logits, torch.tensor([[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]])) == 2


def test_programs_run_once_a_round_and_each_in_the_wake_of_each_other():
    calls = []
    programs = {name: lambda name=name: calls.append(name) for name in ("a", "b", "c")}
    times = interleaved_times(programs, repeats=58, warmup=2)
    assert {name: len(found) for name, found in times.items()} == {"a": 58, "b": 58, "c": 58}
    rounds = [calls[place : place + 3] for place in range(0, len(calls), 3)]
    assert len(rounds) == 60
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    wakes = Counter(pair for order in rounds for pair in pairwise(order))
    assert len(wakes) == 6
    assert min(wakes.values()) >= 10


def test_the_median_lies_between_values_that_leave_too_few_on_either_side():
    # Of 15 values fewer than 4 lie below the median once in 57 times, fewer than 5 once in 17.
    assert median_interval([float(value) for value in range(15)]) == (3.0, 11.0)
    assert median_interval([2.0, 9.0, 4.0]) == (2.0, 9.0)
    assert median_interval([7.0]) == (7.0, 7.0)
    for size in range(6, 60):
        low, high = map(int, median_interval([float(value) for value in range(size)]))
        assert low == size - 1 - high
        missed = sum(comb(size, below) for below in range(low + 1))
        assert 40 * missed <= 2**size < 40 * (missed + comb(size, low + 1))


def test_the_median_is_in_milliseconds_and_leaves_the_warmup_out():
    # Durations in order: a warm-up of 9 s, then 1 s, 5 s, 2 s.
    ticks = iter([0, 9, 10, 11, 20, 25, 30, 32])
    assert interleaved_medians({"a": lambda: None}, repeats=3, warmup=1, clock=lambda: next(ticks)) == {"a": 2000.0}


def test_every_program_is_timed_as_often():
    ticks = count()
    medians = interleaved_medians({"a": int, "b": int}, repeats=4, clock=lambda: float(next(ticks)))
    assert medians == {"a": 1000.0, "b": 1000.0}
