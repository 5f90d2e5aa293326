"""How ONNX Runtime 1.32's integer kernels round on x86, each measured bit for bit on constructed ties."""

from __future__ import annotations

import torch

from quantizer_sdk.profile import Arithmetic, Family, Multiplier, Profile, ZeroPointOrder

__all__ = ["PROFILE"]


def _sigmoid(codes: torch.Tensor, scale: float, zero_point: int, out_scale: float, out_zero_point: int) -> torch.Tensor:
    return _requantized(torch.sigmoid(_real(codes, scale, zero_point).double()).float(), out_scale, out_zero_point)


def _leaky_relu(
    codes: torch.Tensor,
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    *,
    negative_slope: float = 0.01,
) -> torch.Tensor:
    real = _real(codes, scale, zero_point)
    slope = torch.tensor(negative_slope, dtype=torch.float32)
    return _requantized(torch.where(real < 0, real * slope, real), out_scale, out_zero_point)


def _real(codes: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
    return (codes - zero_point).float() * torch.tensor(scale, dtype=torch.float32)


def _requantized(real: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
    return torch.round(real / torch.tensor(scale, dtype=torch.float32)).to(torch.int64) + zero_point


PROFILE = Profile(
    name="onnxruntime",
    activation_dtypes=frozenset({torch.uint8}),
    arithmetic={
        Family.MOVE: Arithmetic(),
        Family.DOT: Arithmetic(),
        Family.ADD: Arithmetic(multiplier=Multiplier.FUSED, zero_point=ZeroPointOrder.BEFORE),
        Family.MUL: Arithmetic(multiplier=Multiplier.FUSED, zero_point=ZeroPointOrder.BEFORE),
        Family.SQUARE: Arithmetic(multiplier=Multiplier.FUSED, zero_point=ZeroPointOrder.BEFORE),
        Family.MEAN: Arithmetic(),
        Family.POOL: Arithmetic(multiplier=Multiplier.DIVIDED, zero_point=ZeroPointOrder.BEFORE),
        Family.TABLE: Arithmetic(multiplier=Multiplier.DIVIDED),
    },
    tables={torch.ops.aten.sigmoid.default: _sigmoid, torch.ops.aten.leaky_relu.default: _leaky_relu},
    # Global average pools refuse the rest at run time; additions and products overflow far above.
    requantization=(2.0**-32, 256.0),
)
