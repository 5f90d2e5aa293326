"""How many mismatches chance allows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantizer_sdk.conformance.statistics import most_by_chance, z_score


@pytest.mark.parametrize("mean", [0.0, 0.01, 0.5, 3.0, 40.0, 500.0])
def test_the_bound_is_the_first_count_that_holds_with_this_confidence(mean):
    bound = most_by_chance(mean)
    terms = [
        math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) if mean else float(k == 0) for k in range(bound + 1)
    ]
    assert sum(terms) >= 0.999 - 1e-9
    assert sum(terms[:-1]) < 0.999


@given(st.floats(0, 5000), st.floats(0, 100))
def test_more_expected_ties_never_allow_fewer_mismatches(mean, more):
    assert most_by_chance(mean + more) >= most_by_chance(mean)


@pytest.mark.parametrize("mean", [600.0, 699.0, 701.0, 5000.0])
def test_large_means_are_close_to_the_normal_bound(mean):
    assert abs(most_by_chance(mean) - (mean + 3.09 * math.sqrt(mean))) < 0.02 * mean


def test_signs_of_one_direction_are_many_deviations_off():
    assert z_score(100, 100) == 10
    assert z_score(0, 100) == 0
    assert z_score(0, 0) == 0
