"""Ready-made factories, for the field's names."""

from __future__ import annotations

import torch

from quantizer_sdk.fake_quantize.fake_quantize import FakeQuantize
from quantizer_sdk.observers.min_max import MovingAverageMinMaxObserver

__all__ = ["default_dynamic_fake_quant", "default_fake_quant"]

default_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=0,
    quant_max=255,
    dtype=torch.uint8,
    qscheme=torch.per_tensor_affine,
)
"""Activations in uint8, affine, per tensor, with a moving average of their range."""

default_dynamic_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    is_dynamic=True,
    quant_min=0,
    quant_max=255,
    dtype=torch.uint8,
    qscheme=torch.per_tensor_affine,
)
"""Activations in uint8, affine, per tensor, with the range of each input."""
