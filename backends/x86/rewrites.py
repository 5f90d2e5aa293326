"""The rewrites into forms that the integer kernels of each runtime take."""

from __future__ import annotations

from collections.abc import Mapping

from quantizer_sdk import rewrites as generic
from quantizer_sdk.backends.x86.target import Target

__all__ = ["REWRITES"]

_GEMMS = (generic.MATMUL, generic.ADDMM)
REWRITES: Mapping[Target, tuple[generic.Rewrite, ...]] = {
    Target.ONEDNN: _GEMMS,
    Target.INDUCTOR: _GEMMS,
    Target.ONNXRUNTIME: (
        generic.SILU,
        generic.SCALAR_OPERANDS,
        *_GEMMS,
        generic.BATCH_NORM,
        generic.SPLIT_AS_SLICES,
    ),
}
"""In the order in which they are tried on an op."""
