"""The rewrites into forms that XNNPACK's integer kernels take."""

from __future__ import annotations

from quantizer_sdk import rewrites as generic

__all__ = ["REWRITES"]

REWRITES = (
    generic.SILU,
    generic.HARDSIGMOID,
    generic.POWER,
    generic.CLAMP_AS_RELU,
    generic.CLAMP_AS_HARDTANH,
    generic.SCALAR_OPERANDS,
    generic.MATMUL,
    generic.ADDMM,
    generic.AVERAGE_POOL,
    generic.BATCH_NORM,
    generic.SPLIT_AS_SLICES,
    generic.MEAN_OF_SIGNAL,
    generic.MEAN_KEEPING_AXES,
    generic.RESHAPE,
)
"""In the order in which they are tried on an op."""
