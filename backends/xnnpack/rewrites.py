"""The rewrites into forms that XNNPACK's integer kernels take."""

from __future__ import annotations

import torch
from torch.fx import Node

from quantizer_sdk import rewrites as generic

__all__ = ["REWRITES"]

_ELU = torch.ops.aten.elu.default


def _with_alpha(replacement: generic.Replacement, node: Node) -> Node | None:
    return replacement.call(_ELU, node.args[0], 1.0) if len(node.args) == 1 else None


REWRITES = (
    generic.Rewrite(name="elu", targets=frozenset({_ELU}), build=_with_alpha),  # ExecuTorch reads it by position
    generic.SILU,
    generic.HARDSIGMOID,
    generic.POWER,
    generic.CLAMP_AS_RELU,
    generic.CLAMP_AS_HARDTANH,
    generic.SCALAR_OPERANDS,
    generic.MATMUL,
    generic.AVERAGE_POOL,
    generic.BATCH_NORM,
    generic.SPLIT_AS_SLICES,
    generic.MEAN_KEEPING_AXES,
    generic.RESHAPE,
)
"""In the order in which they are tried on an op."""
