"""Ways to write ops as others that a backend has kernels for: what `TableQuantizer.rewrites` lists.

Each says how far its result is from the original's: exactly equal, or within so many float32 roundoffs (2**-24).
"""

from quantizer_sdk.passes.rewrite_ops import Replacement, Rewrite
from quantizer_sdk.passes.rewrites_of_functions import (
    CLAMP_AS_HARDTANH,
    CLAMP_AS_RELU,
    HARDSIGMOID,
    POWER,
    SCALAR_OPERANDS,
    SILU,
)
from quantizer_sdk.passes.rewrites_of_gemms import ADDMM, AVERAGE_POOL, BATCH_NORM, MATMUL
from quantizer_sdk.passes.rewrites_of_shapes import MEAN_KEEPING_AXES, MEAN_OF_SIGNAL, RESHAPE, SPLIT_AS_SLICES

__all__ = [
    "ADDMM",
    "AVERAGE_POOL",
    "BATCH_NORM",
    "CLAMP_AS_HARDTANH",
    "CLAMP_AS_RELU",
    "HARDSIGMOID",
    "MATMUL",
    "MEAN_KEEPING_AXES",
    "MEAN_OF_SIGNAL",
    "POWER",
    "RESHAPE",
    "SCALAR_OPERANDS",
    "SILU",
    "SPLIT_AS_SLICES",
    "Replacement",
    "Rewrite",
]
