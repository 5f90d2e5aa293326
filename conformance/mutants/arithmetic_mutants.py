"""Wrong kernels: each computes what the profile says but for one mistake in its arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from quantizer_sdk import Backend
from quantizer_sdk.conformance.mutants import wrong_kernels as wrong
from quantizer_sdk.conformance.mutants.mutant import Kind, Mutant
from quantizer_sdk.profile import Family, Rounding, ZeroPointOrder

__all__ = ["ARITHMETIC_MUTANTS"]

CONV = "aten.conv2d/s8.pc/generic/3x3"
CONV_TIES = "aten.conv2d/s8.pc/zp_odd/3x3"
CONV_MANY = "aten.conv2d/s8.pc/many/3x3"
LINEAR = "aten.linear/s8.pc/generic/2d"
LINEAR_TIES = "aten.linear/s8.pc/zp_odd/2d"
ADD = "aten.add/s8.pc/generic/4d"


def _mutant(name: str, harm: str, make: Callable[[], Backend], killers: str, *cases: str) -> Mutant:
    return Mutant(name=name, harm=harm, make=make, killers=tuple(killers.split()), cases=cases, kind=Kind.KERNEL)


_ONE = "Each result is off by one code."
_TIE = "Results halfway between two codes go the other way, where a golden file from the profile says otherwise."

ARITHMETIC_MUTANTS = (
    _mutant(
        "truncates",
        "Results are half a code too small in magnitude on average, which adds up from layer to layer.",
        wrong.with_rounding(Family.DOT, rounding=Rounding.TRUNCATE),
        "K1 K2 K3 M1",
        CONV,
        CONV_TIES,
        "model.dense/s8.pc/seeded/whole",
    ),
    _mutant(
        "rounds_half_up",
        _TIE,
        wrong.with_rounding(Family.DOT, rounding=Rounding.HALF_UP),
        "K1 K3",
        CONV_TIES,
        LINEAR_TIES,
    ),
    _mutant("rounds_half_away", _TIE, wrong.with_rounding(Family.DOT, rounding=Rounding.HALF_AWAY), "K1 K3", CONV_TIES),
    _mutant(
        "zero_point_before_rounding",
        "With an odd zero point ties go the other way.",
        wrong.with_rounding(Family.DOT, zero_point=ZeroPointOrder.BEFORE),
        "K1 K3",
        CONV_TIES,
        LINEAR_TIES,
    ),
    _mutant(
        "addition_rounds_half_even",
        _TIE,
        wrong.with_rounding(Family.ADD, rounding=Rounding.HALF_EVEN),
        "K1 K3",
        "aten.add/s8.pc/zp_odd/4d",
    ),
    _mutant(
        "addition_truncates",
        "Sums are too small in magnitude.",
        wrong.with_rounding(Family.ADD, rounding=Rounding.TRUNCATE),
        "K1 K2",
        ADD,
    ),
    _mutant(
        "product_rounds_half_away",
        _TIE,
        wrong.with_rounding(Family.MUL, rounding=Rounding.HALF_AWAY),
        "K1 K3",
        "aten.mul/s8.pc/zp_odd/4d",
    ),
    _mutant(
        "mean_truncates",
        "Means are too small, and with them all classes.",
        wrong.with_rounding(Family.MEAN, rounding=Rounding.TRUNCATE),
        "K1 K2 K3",
        "aten.mean.dim/s8.pc/generic/m7x7",
        "aten.mean.dim/s8.pc/zp_odd/m7x7",
    ),
    _mutant(
        "multiplier_of_8_bits",
        "Large results are off by up to one code.",
        wrong.with_kernels(wrong.cut_multiplier(8)),
        "K1 K2",
        CONV,
    ),
    _mutant(
        "multiplier_of_12_bits",
        "One large result in thirty is off by one.",
        wrong.with_kernels(wrong.cut_multiplier(12)),
        "K1 K2",
        CONV,
    ),
    _mutant(
        "multiplier_of_16_bits",
        "One large result in five hundred is off by one.",
        wrong.with_kernels(wrong.cut_multiplier(16)),
        "K1",
        CONV_MANY,
    ),
    _mutant(
        "multiplier_below_one",
        "Results saturate to a smaller range wherever a layer's output scale is small.",
        wrong.with_terms(Family.DOT, wrong.below_one),
        "K1 K7",
        "aten.conv2d/s8.pc/extreme_up/3x3",
    ),
    _mutant(
        "one_multiplier_for_all_channels",
        "All channels but one have a wrong gain.",
        wrong.with_terms(
            Family.DOT, lambda terms, _: (dataclasses.replace(terms[0], which=terms[0].which * 0), *terms[1:])
        ),
        "K1 K6",
        "aten.conv2d/s8.pc/unequal/3x3",
    ),
    _mutant(
        "neighbours_multiplier",
        "Each channel has its neighbour's gain.",
        wrong.with_terms(
            Family.DOT,
            lambda terms, _: (dataclasses.replace(terms[0], which=wrong.rolled(terms[0]).which), *terms[1:]),
        ),
        "K1 K6",
        "aten.conv2d/s8.pc/unequal/3x3",
    ),
    _mutant(
        "bias_dropped",
        "Every channel is off by its bias.",
        wrong.with_biases(lambda _term: None),
        "K1 K2",
        CONV,
        LINEAR,
    ),
    _mutant(
        "bias_of_the_neighbour",
        "Each channel gets its neighbour's bias.",
        wrong.with_biases(wrong.rolled),
        "K1 K2",
        CONV,
        LINEAR,
    ),
    _mutant(
        "relu_dropped",
        "Negative results come through wherever the relu's range is shared with another tensor.",
        wrong.with_kernels(wrong.unclamped),
        "K1 K3",
        "aten.conv2d+aten.relu/s8.pc/zp_inside/3x3",
    ),
    _mutant(
        "upper_clamp_dropped",
        "Results above 6 come through a relu6 wherever its range reaches further.",
        wrong.with_kernels(wrong.unclamped),
        "K1 K3",
        "aten.conv2d+aten.hardtanh/s8.pc/zp_odd/3x3",
    ),
    _mutant(
        "scales_of_operands_swapped",
        "Each operand of a sum is weighed as the other.",
        wrong.with_terms(
            Family.ADD,
            lambda terms, _: tuple(
                dataclasses.replace(term, scales=other.scales) for term, other in zip(terms, terms[::-1], strict=True)
            ),
        ),
        "K1 K2",
        ADD,
    ),
    _mutant(
        "accumulator_of_16_bits",
        "Large sums wrap around, and the strongest features come out with the wrong sign.",
        wrong.with_accumulators(lambda total, _site: (total + 2**15) % 2**16 - 2**15),
        "K1 K4",
        "aten.conv2d/s8.pc/ends/3x3",
        "aten.linear/s8.pc/ends/2d",
    ),
    _mutant(
        "pairs_saturate",
        "Sums of two large products are cut, so that results are off by tens of codes.",
        wrong.with_kernels(wrong.saturating_pairs),
        "K1 K4",
        "aten.linear/s8.pc/ends/2d",
    ),
    _mutant(
        "lowest_code_missing",
        "What should be the lowest code is one above it.",
        wrong.with_codes(lambda codes, site, _node: codes.clamp(min=site.requantized.quant_min + 1)),
        "K1 K2",
        ADD,
        "aten.add/s8.pc/generic/exhaustive",
    ),
    _mutant(
        "output_zero_point_too_large",
        _ONE,
        wrong.with_codes(lambda codes, site, _node: wrong.limited(codes + 1, site)),
        "K1 K2",
        ADD,
        CONV,
    ),
    _mutant(
        "output_zero_point_too_small",
        _ONE,
        wrong.with_codes(lambda codes, site, _node: wrong.limited(codes - 1, site)),
        "K1 K2",
        ADD,
        CONV,
    ),
    _mutant(
        "input_zero_point_ignored",
        "Every result is off by a multiple of its weights' sum.",
        wrong.with_accumulators(wrong.input_zero_point_ignored),
        "K1 K2",
        LINEAR,
    ),
    _mutant(
        "pads_with_code_0",
        "Images have a bright or dark frame wherever the input's zero point is not 0.",
        wrong.padded_with(lambda zero_point: -zero_point),
        "K1 K2",
        "aten.conv2d/s8.pc/generic/strided_padded",
    ),
    _mutant(
        "dilated_pads_with_one",
        "Dilated convolutions see a frame one step above 0.",
        wrong.padded_with(lambda _zero_point: 1),
        "K1 K5",
        "aten.conv2d/s8.pc/generic/dilated_padded",
    ),
    _mutant(
        "same_padding_on_the_wrong_side",
        "An even kernel's result is shifted by a pixel.",
        wrong.padded_with(lambda _zero_point: 0, behind=False),
        "K1 K5",
        "aten.conv2d.padding/s8.pc/generic/same_even",
    ),
    _mutant(
        "products_off_the_simd_width_dropped",
        "A layer whose inputs are no multiple of 8 ignores the last of them.",
        wrong.with_accumulators(wrong.without_tail),
        "K1 K5",
        "aten.linear/s8.pc/generic/k_off_simd",
    ),
    _mutant(
        "last_row_repeated",
        "The last element of an odd batch gets the result of the one before.",
        wrong.with_codes(wrong.last_row_left),
        "K1 K5",
        "aten.linear/s8.pc/generic/rows_over_half_k",
    ),
    _mutant(
        "first_of_a_batch_alone",
        "All but the first image of a batch are blank.",
        wrong.with_codes(wrong.first_element_alone),
        "K1 K5",
        "aten.conv2d/s8.pc/generic/batch_5",
    ),
    _mutant(
        "max_pool_from_code_0",
        "Windows of negative numbers give 0.",
        wrong.with_codes(wrong.pool_from_zero),
        "K1 K2",
        "aten.max_pool2d/s8.pc/generic/p2x2",
    ),
)
