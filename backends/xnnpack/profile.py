"""How XNNPACK's int8 kernels round in ExecuTorch 1.5, each measured bit for bit on constructed ties."""

from __future__ import annotations

import torch

from quantizer_sdk.profile import Arithmetic, DynamicArithmetic, Family, Multiplier, Profile, Rounding, ZeroPointOrder

__all__ = ["PROFILE"]

PROFILE = Profile(
    name="xnnpack",
    arithmetic={
        Family.MOVE: Arithmetic(),
        Family.DOT: Arithmetic(),
        Family.MUL: Arithmetic(),
        Family.SQUARE: Arithmetic(zero_point=ZeroPointOrder.BEFORE),  # x·x runs as a unary kernel
        Family.ADD: Arithmetic(multiplier=Multiplier.FIXED_POINT, rounding=Rounding.HALF_UP),
        Family.MEAN: Arithmetic(multiplier=Multiplier.FOLDED, zero_point=ZeroPointOrder.BEFORE),
        Family.TABLE: Arithmetic(multiplier=Multiplier.RECIPROCAL),
        Family.CLAMP: Arithmetic(zero_point=ZeroPointOrder.BEFORE),
    },
    dynamic=DynamicArithmetic(group_scales=torch.bfloat16, pointwise_rows=True),
    approximations={torch.ops.aten.gelu.default: 4},  # takes 5.22 and above for themselves
    requantization=(2.0**-32, 256.0),
    unsupported={
        "L4.D2/aten.pad/*": "XNNPACK pads in float, between two exact conversions, where no convolution follows",
        "L4.D2/aten.constant_pad_nd/*": "as aten.pad",
        "L3.K5/aten.mean.dim/*/dynamic_batch/*": (
            "ExecuTorch 1.5.1 corrupts the heap when the open batch size of a global average pool goes up and down"
        ),
        "L3.K5/aten.adaptive_avg_pool1d/*/dynamic_batch/*": "as aten.mean.dim",
        "L3.K5/aten.adaptive_avg_pool2d/*/dynamic_batch/*": "as aten.mean.dim",
    },
)
