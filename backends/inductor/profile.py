"""How the kernels round that inductor calls and writes in torch 2.13, each measured bit for bit.

oneDNN's products with codes as their result are ((float32(sum)·sx)·sw + bias)·(1/sy) + zy, rounded to float32 after
each step and to an integer, half to even, at the end: the zero point is added before that. A fused function comes
before the output's scale, and so does a residual, which a convolution multiplies by its scale and adds in one rounding.
All else is code that inductor writes: it dequantizes, computes in float32 and quantizes as the graph says, the zero
point last.
"""

from __future__ import annotations

import torch

from quantizer_sdk.profile import Arithmetic, BiasForm, Family, Multiplier, Profile, ZeroPointOrder

__all__ = ["PROFILE"]

_aten = torch.ops.aten
_PRODUCT = Arithmetic(multiplier=Multiplier.RECIPROCAL, zero_point=ZeroPointOrder.BEFORE)
_WRITTEN = Arithmetic(multiplier=Multiplier.RECIPROCAL)

PROFILE = Profile(
    name="inductor",
    activation_dtypes=frozenset({torch.uint8}),
    bias=BiasForm.FLOAT32,
    arithmetic={
        Family.MOVE: _WRITTEN,
        Family.CLAMP: _WRITTEN,
        Family.DOT: _PRODUCT,
        Family.DOT_ADD: Arithmetic(multiplier=Multiplier.FUSED, zero_point=ZeroPointOrder.BEFORE),
        Family.DOT_TABLE: _PRODUCT,
        Family.ADD: _WRITTEN,
        Family.MUL: _WRITTEN,
        Family.SQUARE: _WRITTEN,
        Family.POOL: _WRITTEN,
        Family.TABLE: _WRITTEN,
    },
    # oneDNN's functions, fused with a product, miss torch's; the written ones are other vector code, in other steps.
    approximations={
        _aten.sigmoid.default: 4,
        _aten.sigmoid_.default: 4,
        _aten.tanh.default: 8,
        _aten.silu.default: 16,
        _aten.silu_.default: 16,
        _aten.hardswish.default: 16,
        _aten.hardswish_.default: 16,
        _aten.gelu.default: 8,
    },
    requantization=(0.0, float("inf")),
)
