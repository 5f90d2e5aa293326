"""Integer test data on which exact ties are frequent, since data on generic scales hardly ever holds one.

All scales are powers of two, so that r = value / scale is a small integer over 4 or more: where δ admits either code at
a tie, the quarters between still tell rounding from truncation. The codes are kept small enough for most results to
stay within int8. The first codes of every activation are the boundary codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizer_sdk.conformance.verdict import Requantized
from quantizer_sdk.errors import InvalidSpecError

__all__ = ["TieCase", "add_ties", "boundary_codes", "dot_ties", "mean_ties", "mul_ties", "tie_fraction"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TieCase:
    """Quantized operands and an output quantization between which ties are frequent.

    Attributes:
        codes: An int8 tensor for each operand; a weight is the second, with zero point 0.
        scales: A power of two for each operand.
        zero_points: A zero point for each operand.
        output_scale: The output's scale, a power of two.
        output_zero_point: The output's zero point. Only an odd one tells rounding before from rounding after it is
            added.
    """

    codes: tuple[Tensor, ...]
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    output_scale: float
    output_zero_point: int


def boundary_codes(zero_point: int, quant_min: int = -128, quant_max: int = 127) -> Tensor:
    """Return both ends of the range, the zero point and the neighbours of all three, as int8, sorted."""
    codes = {end + step for end in (quant_min, zero_point, quant_max) for step in (-1, 0, 1)}
    return torch.tensor(sorted(code for code in codes if quant_min <= code <= quant_max), dtype=torch.int8)


def tie_fraction(requantized: Requantized) -> float:
    """Return the fraction of elements that are exact ties between two codes of the range; 0.0 if there are none."""
    low, high = (end - requantized.zero_point for end in (requantized.quant_min, requantized.quant_max))
    within = (requantized.r > low) & (requantized.r < high)
    ties = (requantized.half_distance == 0) & within
    return float(ties.double().mean()) if ties.numel() else 0.0


def dot_ties(
    activation_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    zero_point: int = 3,
    output_zero_point: int = 5,
    seed: int = 0,
) -> TieCase:
    """Return operands of a convolution, linear or matrix product; r is the integer accumulator over 4, 8, ...

    The divisor grows with the root of the number of products, so that r keeps within the codes' range.
    """
    generator = torch.Generator().manual_seed(seed)
    products = max(1, math.prod(weight_shape) // max(weight_shape[0], 1))
    divisor = 2 ** max(2, round(math.log2(math.sqrt(products) / 2 + 1)))
    weight = torch.randint(-3, 4, tuple(weight_shape), generator=generator, dtype=torch.int8)
    return TieCase(
        codes=(_codes(activation_shape, zero_point, 24, generator), weight),
        scales=(0.25, 0.125),
        zero_points=(zero_point, 0),
        output_scale=0.25 * 0.125 * divisor,
        output_zero_point=output_zero_point,
    )


def add_ties(
    shape: Sequence[int],
    *,
    zero_points: tuple[int, int] = (3, -5),
    output_zero_point: int = 5,
    seed: int = 0,
) -> TieCase:
    """Return operands of an addition or subtraction on different scales: r = a ± b / 4, a quarter of them ties."""
    generator = torch.Generator().manual_seed(seed)
    return TieCase(
        codes=(_codes(shape, zero_points[0], 128, generator), _codes(shape, zero_points[1], 128, generator)),
        scales=(0.5, 0.125),
        zero_points=zero_points,
        output_scale=0.5,
        output_zero_point=output_zero_point,
    )


def mul_ties(
    shape: Sequence[int],
    *,
    zero_points: tuple[int, int] = (3, -5),
    output_zero_point: int = 5,
    seed: int = 0,
) -> TieCase:
    """Return operands of a product: r = ab / 4 with one factor small."""
    generator = torch.Generator().manual_seed(seed)
    return TieCase(
        codes=(_codes(shape, zero_points[0], 64, generator), _codes(shape, zero_points[1], 6, generator).flip(0)),
        scales=(0.25, 0.125),
        zero_points=zero_points,
        output_scale=0.125,
        output_zero_point=output_zero_point,
    )


def mean_ties(
    shape: Sequence[int],
    count: int,
    *,
    zero_point: int = 3,
    output_zero_point: int = 5,
    seed: int = 0,
) -> TieCase:
    """Return the operand of a mean over `count` elements: r is their sum over 4.

    Raises:
        InvalidSpecError: The count is no power of two, so that the output scale could not be one.
    """
    if count < 1 or count & (count - 1):
        raise InvalidSpecError(f"a mean over {count} elements; expected a power of two")
    generator = torch.Generator().manual_seed(seed)
    reach = max(1, min(128, 256 // math.isqrt(count)))
    return TieCase(
        codes=(_codes(shape, zero_point, reach, generator),),
        scales=(0.25,),
        zero_points=(zero_point,),
        output_scale=0.25 * 4 / count,
        output_zero_point=output_zero_point,
    )


def _codes(shape: Sequence[int], zero_point: int, reach: int, generator: torch.Generator) -> Tensor:
    """Return random int8 codes no further than `reach` from the zero point, boundary codes first."""
    low, high = max(-128, zero_point - reach), min(127, zero_point + reach)
    codes = torch.randint(low, high + 1, tuple(shape), generator=generator, dtype=torch.int8)
    boundary = boundary_codes(zero_point)[: codes.numel()]
    codes.view(-1)[: len(boundary)] = boundary
    return codes
