"""How the kernels round that inductor calls and writes in torch 2.13, each measured bit for bit.

oneDNN's products, with a relu and codes as their result, are ((float32(sum)·sx)·sw + bias)·(1/sy) + zy, rounded to
float32 after each step and to an integer, half to even, at the end: the zero point is added before that. All else is
code that inductor writes: it dequantizes, computes in float32 and quantizes as the graph says, the zero point last.
"""

from __future__ import annotations

import torch

from quantizer_sdk.profile import Arithmetic, BiasForm, Family, Multiplier, Profile, ZeroPointOrder

__all__ = ["PROFILE"]

_aten = torch.ops.aten
_WRITTEN = Arithmetic(multiplier=Multiplier.RECIPROCAL)

PROFILE = Profile(
    name="inductor",
    activation_dtypes=frozenset({torch.uint8}),
    bias=BiasForm.FLOAT32,
    arithmetic={
        Family.MOVE: _WRITTEN,
        Family.CLAMP: _WRITTEN,
        Family.DOT: Arithmetic(multiplier=Multiplier.RECIPROCAL, zero_point=ZeroPointOrder.BEFORE),
        Family.ADD: _WRITTEN,
        Family.MUL: _WRITTEN,
        Family.SQUARE: _WRITTEN,
        Family.POOL: _WRITTEN,
        Family.TABLE: _WRITTEN,
    },
    # Vectorized functions of sleef's in the generated code, and these that are written out in other steps than torch's.
    approximations={
        _aten.sigmoid.default: 4,
        _aten.tanh.default: 4,
        _aten.silu.default: 8,
        _aten.gelu.default: 8,
    },
    requantization=(0.0, float("inf")),
)
