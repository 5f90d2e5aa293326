"""What a program returns, as numbers to compare."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["flat"]


def flat(outputs: Any) -> torch.Tensor:
    """Join all outputs, a tensor or several, to one vector of float64."""
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return torch.cat([tensor.flatten().to(torch.float64) for tensor in tensors])
