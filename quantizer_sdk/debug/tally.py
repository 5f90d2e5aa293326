"""What is added up over all batches of one tensor beside another: a few numbers, never the tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from quantizer_sdk.decibels import to_db

__all__ = ["Tally"]

_AT_ONCE = 2**16
"""Elements that are taken together: they stay in the cache, and a float32 sum of so few loses nothing that counts."""


@dataclass(slots=True)
class Tally:
    """Sums in float64 over what was compared so far.

    Attributes:
        count: Elements.
        signal: Σ reference².
        noise: Σ (reference - actual)².
        cross: Σ reference · (reference - actual).
        largest: max |reference - actual|.
        largest_lsb: The same in steps of the scale; None where some element had none.
        compared: How often tensors were added.
        own_signal: Σ reference² of where the own noise was measured.
        own_noise: Σ (reference - what the layer makes of the reference's inputs)².
        owned: How often own noise was added.
        low: The smallest value of the reference, or 0.
        high: The largest, or 0.
    """

    count: int = 0
    signal: float = 0.0
    noise: float = 0.0
    cross: float = 0.0
    largest: float = 0.0
    largest_lsb: float | None = 0.0
    compared: int = 0
    own_signal: float = 0.0
    own_noise: float = 0.0
    owned: int = 0
    low: float = 0.0
    high: float = 0.0

    def add(self, reference: torch.Tensor, actual: torch.Tensor, scale: float | torch.Tensor | None) -> None:
        """Add what the quantized model computes.

        Args:
            reference: Any shape and float type.
            actual: The same shape.
            scale: The step of its codes: a number, a tensor that broadcasts beside it, or None.
        """
        signal, noise, cross, largest = _sums(reference, actual)
        self.compared += 1
        self.count += reference.numel()
        self.signal += signal
        self.noise += noise
        self.cross += cross
        self.largest = max(self.largest, largest)
        if isinstance(scale, torch.Tensor) and scale.numel() == 1:
            scale = float(scale)
        if scale is None or self.largest_lsb is None:
            self.largest_lsb = None
        elif isinstance(scale, torch.Tensor):
            steps = ((reference.float() - actual.float()).abs() / scale.float()).max() if reference.numel() else 0.0
            self.largest_lsb = max(self.largest_lsb, float(steps))
        else:
            self.largest_lsb = max(self.largest_lsb, largest / scale)

    def add_own(self, reference: torch.Tensor, actual: torch.Tensor | None) -> None:
        """Add what the layer makes of the reference's inputs; None for the very same as the reference."""
        self.owned += 1
        if actual is None or not reference.numel():
            return
        low, high = torch.aminmax(reference)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        signal, noise, _cross, _largest = _sums(reference, actual, all_of_them=False)
        self.own_signal += signal
        self.own_noise += noise

    @property
    def sqnr(self) -> float:
        """In dB, pooled over all elements."""
        return to_db(self.signal, self.noise)

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.noise / self.count if self.count else 0.0

    @property
    def cosine(self) -> float:
        """Cosine between all elements of both; 1 for two tensors of zeros, 0 where one alone is."""
        product = self.signal - self.cross
        actual = max(self.signal - 2 * self.cross + self.noise, 0.0)
        if self.signal == 0 or actual == 0:
            return float(self.signal == actual)
        return product / math.sqrt(self.signal * actual)

    @property
    def own_sqnr(self) -> float:
        """In dB, of the layer's own noise."""
        return to_db(self.own_signal, self.own_noise)

    @property
    def own_ratio(self) -> float:
        """Own noise as a share of the signal."""
        if self.own_noise == 0:
            return 0.0
        return self.own_noise / self.own_signal if self.own_signal > 0 else math.inf


def _sums(
    reference: torch.Tensor, actual: torch.Tensor, *, all_of_them: bool = True
) -> tuple[float, float, float, float]:
    """Return Σr², Σd², Σrd and max |d| for d = r - a; the last two are 0 where they are not asked for."""
    if reference.numel() == 0:
        return 0.0, 0.0, 0.0, 0.0
    flat, other = _flat(reference), _flat(actual)
    parts = []
    for r, a in zip(torch.split(flat, _AT_ONCE), torch.split(other, _AT_ONCE), strict=True):
        d = torch.sub(r, a)
        parts.append(torch.dot(r, r))
        parts.append(torch.dot(d, d))
        if all_of_them:
            parts.append(torch.dot(r, d))
            low, high = torch.aminmax(d)
            parts.append(torch.maximum(-low, high))
    step = 4 if all_of_them else 2
    sums = torch.stack(parts).double().reshape(-1, step)
    if not bool(torch.isfinite(sums).all()):
        return _sums_of_finite(flat, other)
    signal, noise = (float(sums[:, index].sum()) for index in (0, 1))
    if not all_of_them:
        return signal, noise, 0.0, 0.0
    return signal, noise, float(sums[:, 2].sum()), float(sums[:, 3].max())


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    return flat if flat.dtype == torch.float32 else flat.to(torch.float32)


def _sums_of_finite(reference: torch.Tensor, actual: torch.Tensor) -> tuple[float, float, float, float]:
    """Leave out where both are the same infinity, such as a mask's; any other infinity or NaN is endless noise."""
    r, a = reference.double(), actual.double()
    same = r == a
    d = torch.where(same, 0.0, r - a)
    kept = torch.where(torch.isfinite(r), r, 0.0)
    noise = float(d.square().sum())
    signal = float(kept.square().sum())
    if not math.isfinite(noise):
        return signal, math.inf, 0.0, math.inf
    return signal, noise, float((kept * d).sum()), float(d.abs().max())
