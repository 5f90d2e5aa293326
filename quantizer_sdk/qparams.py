"""From an observed range to scale and zero point: pure functions on tensors, one element a channel.

The affine map is real = scale * (code - zero_point). Formulas are those of torch.ao, in float32 and in the same
order of operations, so that models quantized there and here agree to the bit; the exceptions are named.
"""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["choose_qparams", "choose_run_time_qparams", "default_eps", "next_power_of_two", "symmetric_zero_point"]


def default_eps() -> float:
    """Return the smallest scale an observer chooses: float32's machine epsilon, 2**-23."""
    return torch.finfo(torch.float32).eps


def symmetric_zero_point(quant_min: int, quant_max: int) -> int:
    """Return the code of 0.0 in a symmetric scheme: 0 where negative codes exist, else the middle of the range.

    The middle of an even number of codes rounds up, so uint8 has 128 (torch.ao: 128 too where the spec gives no range,
    else rounded down; and 0 for signed types, even in a range without negative codes).
    """
    return 0 if quant_min < 0 else (quant_min + quant_max + 1) // 2


def next_power_of_two(scale: torch.Tensor) -> torch.Tensor:
    """Return the smallest powers of two that are not below the given positive numbers, exactly."""
    mantissa, exponent = torch.frexp(scale)  # scale = mantissa * 2 ** exponent with 0.5 <= mantissa < 1
    return torch.ldexp(torch.ones_like(scale), torch.where(mantissa == 0.5, exponent - 1, exponent))


def choose_qparams(
    min_val: torch.Tensor,
    max_val: torch.Tensor,
    *,
    quant_min: int,
    quant_max: int,
    symmetric: bool,
    eps: float | None = None,
    power_of_two: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the scale and zero point whose codes cover [min(min_val, 0), max(max_val, 0)].

    0.0 is always a code exactly. A range of zero width would leave the scale at `eps` and the ratio between scales,
    which kernels bound, at 1e5 and more; it gets the largest scale of the other channels instead, or 1.0 where
    there is none: any scale represents it exactly (torch.ao: eps).

    Args:
        min_val: Smallest observed values, one a scale, of any shape and float dtype.
        max_val: Largest observed values, same shape.
        quant_min: Smallest code.
        quant_max: Largest code.
        symmetric: Whether the zero point is fixed, see `symmetric_zero_point`.
        eps: Smallest scale to choose; None takes `default_eps`.
        power_of_two: Whether each scale is rounded up to a power of two, so that kernels can shift.

    Returns:
        The scale, float32, and the zero point, int32, both of the shape of `min_val`.
    """
    if min_val.dim() == 0 and not power_of_two:
        one = (float(min_val), float(max_val))
        chosen, zero = _choose_one(*one, quant_min, quant_max, symmetric, default_eps() if eps is None else eps)
        device = min_val.device
        return torch.tensor(chosen, device=device), torch.tensor(zero, dtype=torch.int32, device=device)
    low = torch.clamp(min_val.to(torch.float32), max=0.0)
    high = torch.clamp(max_val.to(torch.float32), min=0.0)
    floor = default_eps() if eps is None else eps
    if symmetric:
        scale = torch.maximum(-low, high) / (float(quant_max - quant_min) / 2)
    else:
        steps = float(quant_max - quant_min)
        span = high - low
        scale = torch.where(torch.isinf(span), high / steps - low / steps, span / steps)
    scale = torch.clamp(scale, min=floor)
    if power_of_two:
        scale = next_power_of_two(scale)
    if symmetric:
        zero_point = torch.full_like(scale, symmetric_zero_point(quant_min, quant_max), dtype=torch.int32)
    else:
        # In integers: float32 has no room for the codes of int32.
        zero_point = torch.clamp(quant_min - torch.round(low / scale).to(torch.int64), quant_min, quant_max)
        zero_point = zero_point.to(torch.int32)
    empty = (low == 0) & (high == 0)
    if bool(empty.any()):
        live = scale[~empty]
        scale = torch.where(empty, live.max() if live.numel() else torch.ones_like(scale), scale)
    return scale, zero_point


def choose_run_time_qparams(
    min_val: torch.Tensor, max_val: torch.Tensor, *, quant_min: int, quant_max: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose affine qparams as kernels do that quantize their operand themselves: XNNPACK's rule, in its own order.

    It divides once, into the inverse of the scale, and rounds the zero point so that the end of the range which is
    farther off a code loses nothing. A range of zero width has scale 1.

    Args:
        min_val: Smallest values, one a scale, of any shape and float dtype.
        max_val: Largest values, same shape.
        quant_min: Smallest code.
        quant_max: Largest code.
        eps: Smallest scale to choose; 0.0 for none.

    Returns:
        The scale, float32, and the zero point, int64, both of the shape of `min_val`.
    """
    low = torch.clamp(min_val.to(torch.float32), max=0.0)
    high = torch.clamp(max_val.to(torch.float32), min=0.0)
    codes = torch.full_like(low, quant_max - quant_min)  # number / tensor would multiply by the reciprocal
    inverse = torch.where(low == high, torch.ones_like(low), codes / (high - low))
    if eps > 0:
        inverse = torch.clamp(inverse, max=1.0 / eps)
    at_low, at_high = low * inverse, high * inverse
    lower = (quant_min + at_low) + (quant_max + at_high) > 0
    zero_point = torch.where(lower, quant_min - at_low, quant_max - at_high)
    return 1.0 / inverse, torch.round(torch.clamp(zero_point, quant_min, quant_max)).to(torch.int64)


def _choose_one(
    min_val: float, max_val: float, quant_min: int, quant_max: int, symmetric: bool, eps: float
) -> tuple[float, int]:
    """Choose for one range, bit for bit as on tensors, without a dozen calls on tensors of one element."""
    low, high = np.float32(min(min_val, 0.0)), np.float32(max(max_val, 0.0))
    with np.errstate(over="ignore"):
        if low == 0 and high == 0:
            scale = np.float32(1.0)
        elif symmetric:
            scale = max(max(-low, high) / np.float32((quant_max - quant_min) / 2), np.float32(eps))
        else:
            steps = np.float32(quant_max - quant_min)
            span = high - low
            scale = max(high / steps - low / steps if np.isinf(span) else span / steps, np.float32(eps))
    if symmetric:
        return float(scale), symmetric_zero_point(quant_min, quant_max)
    steps = round(float(low / scale)) if scale > 0 else 0  # 0 only where eps is, and the range too small for float32
    return float(scale), min(max(quant_min - steps, quant_min), quant_max)
