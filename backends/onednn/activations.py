"""What follows a gemm and is computed by its kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onednn.editing import call_of

__all__ = ["CLAMPS", "NONE", "Activation", "activation_of", "clamp_ends"]

_ATEN = torch.ops.aten
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True)
class Activation:
    """A post-op of oneDNN, or a function that the ops apply in its place.

    Attributes:
        name: As torch's onednn ops name it.
        arguments: Its numbers.
        algorithm: Which of two forms of it.
    """

    name: str
    arguments: tuple[float, ...] = ()
    algorithm: str = ""


NONE = Activation("none")

_Make = Callable[[dict[str, Any]], "Activation | None"]


def clamp_ends(node: Node) -> tuple[float, float] | None:
    """Return the ends that a node clamps to, infinite where it has none; None where it does not clamp by numbers."""
    if node.target not in CLAMPS:
        return None
    low, high = CLAMPS[node.target](call_of(node))  # type: ignore[index]
    if isinstance(low, Node) or isinstance(high, Node):
        return None
    return (-math.inf if low is None else float(low)), (math.inf if high is None else float(high))


CLAMPS: Mapping[torch._ops.OpOverload, Callable[[dict[str, Any]], tuple[Any, Any]]] = {
    _ATEN.relu.default: lambda _: (0.0, None),
    _ATEN.relu6.default: lambda _: (0.0, 6.0),
    _ATEN.hardtanh.default: lambda call: (call["min_val"], call["max_val"]),
    _ATEN.clamp.default: lambda call: (call["min"], call["max"]),
    _ATEN.clamp_min.default: lambda call: (call["min"], None),
    _ATEN.clamp_max.default: lambda call: (None, call["max"]),
}


def _gelu(call: dict[str, Any]) -> Activation:
    return Activation("gelu", (), call["approximate"])


def _leaky(call: dict[str, Any]) -> Activation:
    return Activation("leaky_relu", (float(call["negative_slope"]),))


_CONV: dict[torch._ops.OpOverload, _Make] = {
    _ATEN.hardswish.default: lambda _: Activation("hardswish"),
    _ATEN.silu.default: lambda _: Activation("swish"),
}
_LINEAR: dict[torch._ops.OpOverload, _Make] = {
    **_CONV,
    _ATEN.gelu.default: _gelu,
    _ATEN.leaky_relu.default: _leaky,
    _ATEN.tanh.default: lambda _: Activation("tanh"),
    _ATEN.sigmoid.default: lambda _: Activation("sigmoid"),
}


def activation_of(node: Node, *, linear: bool) -> Activation | None:
    """Return a node as a post-op of a linear layer or of a convolution; None where there is none for it."""
    ends = clamp_ends(node)
    if ends is not None:
        low, high = ends
        if ends == (0.0, math.inf):
            return Activation("relu")
        return Activation("hardtanh", (max(low, -_LARGEST), min(high, _LARGEST))) if low <= high else None
    make = (_LINEAR if linear else _CONV).get(node.target)  # type: ignore[call-overload]
    return None if make is None else make(call_of(node))
