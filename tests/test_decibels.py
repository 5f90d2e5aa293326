"""Signal to noise in dB: what is no number is never taken for a good model."""

import math

import pytest
import torch

from quantizer_sdk.accuracy import sqnr
from quantizer_sdk.decibels import in_db, to_db
from quantizer_sdk.mixed.outputs import Reference


@pytest.mark.parametrize(
    ("signal", "noise", "expected", "words"),
    [(100.0, 1.0, 20.0, "20.0 dB"), (1.0, 0.0, math.inf, "exact"), (0.0, 1.0, -math.inf, "-inf dB")],
)
def test_ratios(signal, noise, expected, words):
    assert to_db(signal, noise) == pytest.approx(expected)
    assert in_db(to_db(signal, noise)) == words


def test_nan_stays_nan_wherever_models_are_judged():
    one, broken = torch.ones(2), torch.full((2,), math.nan)
    assert math.isnan(to_db(1.0, math.nan))
    assert in_db(math.nan) == "NaN"
    assert math.isnan(sqnr([one], [broken]))
    assert math.isnan(Reference(outputs=((one,),), weights=(0.5,)).sqnr([[broken]]))
