"""How the kernels that eager torch 2.13 calls round on x86, each measured bit for bit on constructed ties.

With AVX512, with and without VNNI. With AVX2 alone, oneDNN multiplies the two scales of a gemm first, which changes one
result in a million.
"""

from __future__ import annotations

import torch

from quantizer_sdk.profile import (
    Arithmetic,
    BiasForm,
    DynamicArithmetic,
    Family,
    Multiplier,
    Profile,
    RunTimeScale,
    ScaleOrder,
    ZeroPointOrder,
)

__all__ = ["PROFILE"]

_GEMM = Arithmetic(multiplier=Multiplier.RECIPROCAL, zero_point=ZeroPointOrder.BEFORE)
_TORCHS_OWN = Arithmetic(multiplier=Multiplier.PREMULTIPLIED)
_AS_THE_GRAPH = Arithmetic(multiplier=Multiplier.RECIPROCAL)

PROFILE = Profile(
    name="onednn",
    activation_dtypes=frozenset({torch.uint8}),
    bias=BiasForm.FLOAT32,
    arithmetic={
        Family.MOVE: Arithmetic(),
        Family.CLAMP: Arithmetic(),
        Family.DOT: _GEMM,
        Family.DOT_ADD: _GEMM,
        Family.DOT_TABLE: _GEMM,
        Family.ADD: _TORCHS_OWN,
        Family.MUL: _TORCHS_OWN,
        Family.SQUARE: _TORCHS_OWN,
        Family.MEAN: Arithmetic(),
        Family.POOL: _AS_THE_GRAPH,
        Family.TABLE: _AS_THE_GRAPH,
    },
    dynamic=DynamicArithmetic(
        scale=RunTimeScale.DIRECT,
        order=ScaleOrder.SEPARATE,
        zero_point=ZeroPointOrder.BEFORE,
        smallest_scale=torch.finfo(torch.float32).eps,
    ),
    # By how much oneDNN's functions, fused with a gemm, were seen to miss torch's, and some.
    approximations={
        torch.ops.aten.silu.default: 16,
        torch.ops.aten.hardswish.default: 16,
        torch.ops.aten.tanh.default: 8,
        torch.ops.aten.gelu.default: 8,
        torch.ops.aten.sigmoid.default: 4,
        torch.ops.aten.sigmoid_.default: 4,
    },
    requantization=(0.0, float("inf")),
)
