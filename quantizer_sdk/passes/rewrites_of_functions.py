"""Functions of one number as others: activations, powers, clamps, and numbers as operands."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.operands import argument
from quantizer_sdk.passes.rewrite_ops import Replacement, Rewrite
from quantizer_sdk.provenance import value_of

__all__ = ["CLAMP_AS_HARDTANH", "CLAMP_AS_RELU", "HARDSIGMOID", "POWER", "SCALAR_OPERANDS", "SILU"]

_ATEN = torch.ops.aten
_FUNCTIONAL = {
    _ATEN.add_.Tensor: _ATEN.add.Tensor,
    _ATEN.sub_.Tensor: _ATEN.sub.Tensor,
    _ATEN.mul_.Tensor: _ATEN.mul.Tensor,
    _ATEN.div_.Tensor: _ATEN.div.Tensor,
}
_CLAMPS = frozenset(
    {
        _ATEN.clamp.default,
        _ATEN.clamp_.default,
        _ATEN.clamp_min.default,
        _ATEN.clamp_min_.default,
    }
)


def _silu(replacement: Replacement, node: Node) -> Node:
    operand = argument(node, "self")
    return replacement.call(_ATEN.mul.Tensor, operand, replacement.call(_ATEN.sigmoid.default, operand))


def _hardsigmoid(replacement: Replacement, node: Node) -> Node:
    """Add first: clamped to [-3, 3], on 255 steps, every operand of the addition would lead to a tie."""
    operand = argument(node, "self")
    three, sixth = (replacement.constant(torch.tensor([number]), operand) for number in (3.0, 1 / 6))
    shifted = replacement.call(_ATEN.add.Tensor, operand, three)
    clamped = replacement.call(_ATEN.hardtanh.default, shifted, 0.0, 6.0)
    return replacement.call(_ATEN.mul.Tensor, clamped, sixth)


def _square(replacement: Replacement, node: Node) -> Node | None:
    if argument(node, "exponent") != 2:
        return None
    return replacement.call(_ATEN.square.default, argument(node, "self"))


def _hardtanh(replacement: Replacement, node: Node) -> Node | None:
    low, high = _ends(node)
    if low is None or high is None or low > high:
        return None
    return replacement.call(_ATEN.hardtanh.default, argument(node, "self"), low, high)


def _relu(replacement: Replacement, node: Node) -> Node | None:
    low, high = _ends(node)
    if low != 0 or high is not None:
        return None
    return replacement.call(_ATEN.relu.default, argument(node, "self"))


def _ends(node: Node) -> tuple[Any, Any]:
    """Return the finite ends of a clamp, None where it has none."""
    names = ("min", "max") if "clamp_min" not in str(node.target) else ("min",)
    ends = [argument(node, name) for name in names]
    low, high = (end if isinstance(end, (int, float)) and math.isfinite(end) else None for end in (*ends, None)[:2])
    return low, high


def _with_tensor(replacement: Replacement, node: Node) -> Node | None:
    """A number becomes a tensor of one element; a quotient by a number becomes a product with its reciprocal."""
    if node.target is _ATEN.rsub.Scalar:
        if argument(node, "alpha") != 1:
            return None
        operand = argument(node, "self")
        return replacement.call(_ATEN.sub.Tensor, _one(replacement, argument(node, "other"), operand), operand)
    operand, other = argument(node, "self"), argument(node, "other")
    if isinstance(other, Node) or not isinstance(operand, Node) or not _is_finite(other):
        return None
    assert isinstance(node.target, torch._ops.OpOverload)
    target = _FUNCTIONAL.get(node.target, node.target)
    if target is _ATEN.div.Tensor:
        if other == 0:
            return None
        return replacement.call(_ATEN.mul.Tensor, operand, _one(replacement, 1 / other, operand))
    if target is not _ATEN.mul.Tensor and argument(node, "alpha") != 1:
        return None
    return replacement.call(target, operand, _one(replacement, other, operand))


def _is_finite(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)


def _one(replacement: Replacement, number: float, like: Node) -> Node:
    assert value_of(like).is_floating_point()
    return replacement.constant(torch.tensor([float(number)]), like)


SILU = Rewrite(name="silu", targets=frozenset({_ATEN.silu.default, _ATEN.silu_.default}), build=_silu)
"""x·sigmoid(x), within 4 float32 roundoffs of torch's own."""

HARDSIGMOID = Rewrite(
    name="hardsigmoid", targets=frozenset({_ATEN.hardsigmoid.default, _ATEN.hardsigmoid_.default}), build=_hardsigmoid
)
"""clamp(x + 3, 0, 6)·(1/6), within 4 float32 roundoffs of 1."""

POWER = Rewrite(name="power", targets=frozenset({_ATEN.pow.Tensor_Scalar}), build=_square)
"""pow(x, 2) as square(x), exactly."""

CLAMP_AS_HARDTANH = Rewrite(name="clamp_as_hardtanh", targets=_CLAMPS, build=_hardtanh)
"""A clamp with both ends, exactly."""

CLAMP_AS_RELU = Rewrite(name="clamp_as_relu", targets=_CLAMPS, build=_relu)
"""A clamp from 0 on, exactly."""

SCALAR_OPERANDS = Rewrite(
    name="scalar_operands",
    targets=frozenset({*_FUNCTIONAL, *_FUNCTIONAL.values(), _ATEN.rsub.Scalar}),
    build=_with_tensor,
)
"""Numbers added, subtracted or multiplied as tensors, exactly; quotients within 2 float32 roundoffs."""
