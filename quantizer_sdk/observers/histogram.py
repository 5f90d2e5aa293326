"""The observer that keeps a histogram and clips where clipping costs less than it gains."""

from __future__ import annotations

from typing import Any

import torch

from quantizer_sdk.dtypes import code_range
from quantizer_sdk.errors import InvalidSpecError
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.qparams import choose_qparams

__all__ = ["HistogramObserver"]

_CANDIDATES = 32  # clipping points tried at each end of an affine range


class HistogramObserver(ObserverBase):
    """Keeps a histogram of all values and chooses the range with the least mean square error after rounding.

    The bins lie on a grid through 0.0 and their width is doubled, merging pairs, until they cover what came by:
    no count is ever split between bins, so the state does not depend on the order of the batches by more than one bin.

    Args:
        bins: Number of bins, a multiple of 4.

    Raises:
        InvalidSpecError: `bins` is not such a number, or the qscheme is per channel, which a histogram does not keep.
    """

    histogram: torch.Tensor
    bin_width: torch.Tensor
    min_val: torch.Tensor
    max_val: torch.Tensor

    def __init__(self, *args: Any, bins: int = 2048, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if bins < 4 or bins % 4:
            message = f"HistogramObserver: bins is {bins}; it must be a multiple of 4"
            raise InvalidSpecError(message)
        if self.per_channel:
            message = (
                f"HistogramObserver: qscheme is {self.qscheme}, but one histogram is kept for the whole tensor; "
                "use PerChannelMinMaxObserver"
            )
            raise InvalidSpecError(message)
        self.bins = bins
        self.register_buffer("histogram", torch.zeros(bins, dtype=torch.float64))
        self.register_buffer("bin_width", torch.empty(0))
        self.register_buffer("min_val", torch.empty(0))
        self.register_buffer("max_val", torch.empty(0))

    @property
    def calibrated(self) -> bool:
        """Whether any data came by."""
        return self.min_val.numel() > 0

    def observe(self, x: torch.Tensor) -> None:
        """Count the values of `x`."""
        low, high = self._min_max(x)
        if self.calibrated:
            low, high = torch.minimum(low, self.min_val), torch.maximum(high, self.max_val)
        self.min_val, self.max_val = low, high
        self._cover(float(torch.maximum(-low, high)))
        edge = min(float(self.bin_width) * (self.bins // 2), torch.finfo(torch.float32).max)
        counts = torch.histc(x.to(torch.float32), self.bins, -edge, edge)
        self.histogram = self.histogram + counts  # never in place: copies of a model share their buffers

    def _cover(self, largest: float) -> None:
        """Double the bin width until the histogram reaches from -largest to largest."""
        half = self.bins // 2
        if self.bin_width.numel() == 0:
            # A power of two: the same grid whatever batch came first.
            width = 2.0 ** torch.ceil(torch.log2(torch.tensor(max(largest, 2.0**-100) / half, dtype=torch.float64)))
            self.bin_width = width.to(self.min_val.device)
        while float(self.bin_width) * half < largest:
            pairs = self.histogram.reshape(half, 2).sum(1)
            self.histogram = torch.zeros_like(self.histogram)
            self.histogram[half // 2 : half // 2 + half] = pairs
            self.bin_width = self.bin_width * 2

    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the range with the least expected square error.

        Every candidate range quantizes the centres of the filled bins, weighted by their counts; those beyond the
        range are clipped to it. Candidates keep 100 % down to 2 % of each end.
        """
        filled = torch.nonzero(self.histogram).reshape(-1)
        counts = self.histogram[filled].to(torch.float32)
        centres = ((filled - self.bins // 2).to(torch.float32) + 0.5) * self.bin_width.to(torch.float32)
        centres = torch.clamp(centres, self.min_val, self.max_val)
        low, high = self._candidates()
        scale, zero_point = choose_qparams(
            low,
            high,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            symmetric=self.qscheme is torch.per_tensor_symmetric,
            eps=self.eps,
        )
        quant_min, quant_max = code_range(self.dtype, self.quant_min, self.quant_max)
        errors = torch.empty(low.numel(), device=low.device)
        for index in range(0, low.numel(), 64):  # bounds the memory of candidates x bins
            part = slice(index, index + 64)
            step, zero = scale[part, None], zero_point[part, None]
            codes = torch.clamp(torch.round(centres / step) + zero, quant_min, quant_max)
            errors[part] = torch.mv(torch.square((codes - zero) * step - centres), counts)
        best = int(errors.argmin())
        return low[best], high[best]

    def _candidates(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All pairs of ends to try, the whole range first."""
        kept = torch.linspace(1.0, 0.02, _CANDIDATES, device=self.min_val.device)
        if self.qscheme is torch.per_tensor_symmetric:
            return self.min_val * kept, self.max_val * kept
        low = self.min_val * (kept if float(self.min_val) < 0 else kept[:1])
        high = self.max_val * (kept if float(self.max_val) > 0 else kept[:1])
        return low.repeat_interleave(high.numel()), high.repeat(low.numel())
