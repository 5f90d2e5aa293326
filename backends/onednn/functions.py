"""What follows a gemm, where its kernel does not compute it: on the float32 numbers that the kernel gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from quantizer_sdk.backends.onednn.codes import rounded
from quantizer_sdk.backends.onednn.scalars import scalar

__all__ = ["finished"]

_APPLY: Mapping[str, Callable[[Tensor, Sequence[float]], Tensor]] = {
    "none": lambda y, _: y,
    "relu": lambda y, _: y.relu_(),
    "hardtanh": lambda y, ends: y.clamp_(*ends),
    "hardswish": lambda y, _: functional.hardswish(y, inplace=True),
    "swish": lambda y, _: functional.silu(y, inplace=True),
    "sigmoid": lambda y, _: y.sigmoid_(),
}


def finished(
    y: Tensor, name: str, arguments: Sequence[float], scale: float, zero_point: int, dtype: torch.dtype
) -> Tensor:
    """Apply a function, and round as oneDNN's kernels do where codes are asked for: y·f(1 / scale) + zero_point.

    Args:
        y: Is written over.
        name: As oneDNN's post-ops are named; "sigmoid" is none of them.
        arguments: The function's numbers.
        scale: Of the codes.
        zero_point: Of the codes.
        dtype: torch.uint8 for codes, torch.float32 for the numbers.
    """
    y = _APPLY[name](y, arguments)
    if dtype is not torch.uint8:
        return y
    return rounded(y.mul_(scalar(1.0 / scale)).add_(scalar(zero_point)))
