"""The ops that lowered graphs are made of, `torch.ops.quantizer_sdk_x86.*`, and the short way to their kernels.

They are registered when `quantizer_sdk.backends.onednn` is imported; a program saved with them loads where that has
been done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

__all__ = ["KERNELS", "NAMESPACE", "call", "define", "entry"]

NAMESPACE = "quantizer_sdk_x86"

_Result = TypeVar("_Result")

# Kernels go to the dispatcher by themselves: torch's decorator for ops in Python costs several times as much a call.
_LIBRARY: Any = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]

KERNELS: dict[torch._ops.OpOverload, Callable[..., Any]] = {}
"""What each op is on CPU tensors."""


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
    KERNELS[overload] = kernel
    return overload


def entry(overload: torch._ops.OpOverload) -> Callable[..., Any]:
    """Return what an overload of torch's calls: without the call in Python that only hands its operands on."""
    function: Callable[..., Any] = overload._op
    return function


def call(
    function: Callable[..., _Result],
    overload: torch._ops.OpOverload,
    kernel: Callable[..., _Result],
    operands: tuple[Any, ...],
) -> _Result:
    """Call an op: straight its kernel where nobody would see the difference.

    With so many arguments, the dispatcher takes about 10 microseconds to get to a kernel in Python. Whoever compiles,
    exports, differentiates or watches gets the op.

    Args:
        function: The function of the op, which graphs call; where `torch.fx` traces, it stays one call.
        overload: The op.
        kernel: What it is on CPU tensors.
        operands: What the op takes; the first is a tensor.
    """
    op: Callable[..., _Result] = overload
    if torch.compiler.is_compiling():
        return op(*operands)
    if type(operands[0]) is not Tensor:
        if has_torch_function(operands):
            traced: _Result = handle_torch_function(function, operands, *operands)
            return traced
    elif not torch.is_grad_enabled() and not torch._C._len_torch_dispatch_stack():
        return kernel(*operands)
    return op(*operands)
