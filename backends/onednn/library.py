"""The namespace of the ops that lowered graphs are made of: `torch.ops.quantizer_sdk_x86`.

They are registered when `quantizer_sdk.backends.onednn` is imported; a program saved with them loads where that has
been done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["NAMESPACE", "define"]

NAMESPACE = "quantizer_sdk_x86"

# Kernels go to the dispatcher by themselves: torch's decorator for ops in Python costs several times as much a call.
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")


def define(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Register an op that changes none of its operands.

    Args:
        schema: As `torch.library.Library.define` takes it.
        kernel: Computes it on CPU tensors.
        fake: Returns an empty tensor of the same shape, dtype and strides.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CPU")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    overload: torch._ops.OpOverload = getattr(getattr(torch.ops, NAMESPACE), name).default
    return overload
