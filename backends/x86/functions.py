"""From the functions that users call, such as `torch.matmul`, to the aten ops that export makes of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional

from quantizer_sdk.errors import RuleError

__all__ = ["overloads_of_function"]

# Functions whose name is not that of their op.
_PACKETS = MappingProxyType(
    {
        operator.add: "add",
        operator.iadd: "add_",
        operator.mul: "mul",
        operator.imul: "mul_",
        operator.matmul: "matmul",
        functional.max_pool1d: "max_pool1d",
        functional.max_pool2d: "max_pool2d",
        functional.max_pool3d: "max_pool3d",
        functional.adaptive_avg_pool1d: "adaptive_avg_pool1d",
    }
)


def overloads_of_function(function: Callable[..., Any]) -> tuple[torch._ops.OpOverload, ...]:
    """Return the overloads of a function's op, and of the one that works in place.

    Raises:
        RuleError: There is no op of its name.
    """
    name = _PACKETS.get(function, getattr(function, "__name__", ""))
    found = [getattr(torch.ops.aten, packet, None) for packet in (name, f"{name}_") if packet.isidentifier()]
    packets = [packet for packet in found if isinstance(packet, torch._ops.OpOverloadPacket)]
    if not packets:
        message = (
            f"{function!r} is no function with an op of its own; give one such as torch.matmul or "
            "torch.nn.functional.linear, or name the op with set_operator_type"
        )
        raise RuleError(message)
    return tuple(overload for packet in packets for overload in _overloads(packet))


def _overloads(packet: torch._ops.OpOverloadPacket) -> Iterator[torch._ops.OpOverload]:
    names: list[str] = packet.overloads()  # type: ignore[no-untyped-call]
    for name in names:
        yield getattr(packet, name)
