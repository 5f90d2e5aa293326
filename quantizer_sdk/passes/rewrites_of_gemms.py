"""Linear maps by constants as the layers that have kernels: matrix products, average pools, batch norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.match import is_constant
from quantizer_sdk.operands import argument
from quantizer_sdk.passes.fold_batch_norm import folded_bias, scale_of_norm
from quantizer_sdk.passes.rewrite_ops import Replacement, Rewrite
from quantizer_sdk.provenance import value_of

__all__ = ["ADDMM", "AVERAGE_POOL", "BATCH_NORM", "MATMUL", "transposed"]

_ATEN = torch.ops.aten


def _product(replacement: Replacement, node: Node) -> Node | None:
    return _linear(replacement, node.args[0], node.args[1], None)


def _addmm(replacement: Replacement, node: Node) -> Node | None:
    """Write beta·c + alpha·(a @ b) as one layer where c is a vector and both factors are 1, else as it reads."""
    added, left, right = node.args[:3]
    alpha, beta = argument(node, "alpha"), argument(node, "beta")
    if not isinstance(added, Node):
        return None
    vector = is_constant(added) and value_of(added).dim() == 1
    if vector and alpha == beta == 1:
        return _linear(replacement, left, right, added)
    product = _linear(replacement, left, right, None)
    if product is None:
        return None
    if alpha != 1:
        product = replacement.call(_ATEN.mul.Tensor, product, replacement.constant(torch.tensor(alpha), product))
    if beta == 0:
        return product
    if beta != 1:
        added = replacement.call(_ATEN.mul.Tensor, added, replacement.constant(torch.tensor(beta), added))
    return replacement.call(_ATEN.add.Tensor, product, added)


def _linear(replacement: Replacement, left: Any, right: Any, bias: Node | None) -> Node | None:
    """Append a linear layer by a constant matrix; None where the product is none of such."""
    if not isinstance(left, Node) or not isinstance(right, Node) or not is_constant(right) or is_constant(left):
        return None
    if value_of(right).dim() != 2 or value_of(left).dim() < 2:
        return None
    weight = transposed(right) or replacement.call(_ATEN.t.default, right)
    return replacement.call(_ATEN.linear.default, left, weight, *(() if bias is None else (bias,)))


def transposed(weight: Node) -> Node | None:
    """Return the parameter that a constant is the transpose of, if it is one."""
    target, operand = weight.target, weight.args[0] if weight.args else None
    swaps = target is _ATEN.t.default
    if target is _ATEN.transpose.int:
        swaps = {int(axis) % 2 for axis in weight.args[1:3]} == {0, 1}  # type: ignore[arg-type]
    if target is _ATEN.permute.default:
        swaps = [int(axis) % 2 for axis in weight.args[1]] == [1, 0]  # type: ignore[arg-type, union-attr]
    return operand if swaps and isinstance(operand, Node) else None


def _depthwise(
    replacement: Replacement, operand: Node, weight: torch.Tensor, bias: torch.Tensor | None, **window: Any
) -> Node:
    """Append a convolution of each channel by itself; `weight` has shape [channels, 1, height, width]."""
    scale = replacement.constant(weight.contiguous(), operand)
    shift = None if bias is None else replacement.constant(bias.contiguous(), operand)
    stride, padding = window.get("stride", (1, 1)), window.get("padding", (0, 0))
    channels = weight.shape[0]
    return replacement.call(_ATEN.conv2d.default, operand, scale, shift, stride, padding, (1, 1), channels)


def _average_pool(replacement: Replacement, node: Node) -> Node | None:
    operand = argument(node, "self")
    kernel, padding = _pair(argument(node, "kernel_size")), _pair(argument(node, "padding"))
    stride = _pair(argument(node, "stride")) or kernel
    channels = _channels(operand)
    counts_all = argument(node, "count_include_pad") or not any(padding)
    if channels is None or argument(node, "ceil_mode") or not counts_all:
        return None
    divisor = argument(node, "divisor_override") or math.prod(kernel)
    weight = torch.full((channels, 1, *kernel), 1 / divisor)
    return _depthwise(replacement, operand, weight, None, stride=stride, padding=padding)


def _batch_norm(replacement: Replacement, node: Node) -> Node | None:
    operand = argument(node, "input")
    gamma, beta, mean, variance = (
        replacement.tensor(argument(node, name)) for name in ("weight", "bias", "running_mean", "running_var")
    )
    channels = _channels(operand)
    if argument(node, "training") or channels is None or mean is None or variance is None:
        return None
    missing = (gamma is None) != (argument(node, "weight") is None) or (beta is None) != (
        argument(node, "bias") is None
    )
    if missing:
        return None
    wide = [None if tensor is None else tensor.double() for tensor in (gamma, beta, mean, variance)]
    factor = scale_of_norm(wide[0], variance.double(), argument(node, "eps"))
    bias = folded_bias(None, factor, wide[1], mean.double())
    return _depthwise(replacement, operand, factor.reshape(channels, 1, 1, 1).float(), bias.float())


def _channels(operand: Node) -> int | None:
    """Return the number of channels of an image batch; None for other ranks and open numbers."""
    value = value_of(operand)
    return value.shape[1] if value.dim() == 4 and isinstance(value.shape[1], int) else None


def _pair(sizes: int | Sequence[int]) -> tuple[int, ...]:
    values = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return values * 2 if len(values) == 1 else values


MATMUL = Rewrite(name="matmul", targets=frozenset({_ATEN.matmul.default, _ATEN.mm.default}), build=_product, gemm=True)
"""A product with a constant matrix as a linear layer, exactly."""

ADDMM = Rewrite(name="addmm", targets=frozenset({_ATEN.addmm.default}), build=_addmm, gemm=True)
"""A constant vector and a product with a constant matrix as a linear layer; other sums and factors as ops behind it.

Up to the order in which a float kernel sums.
"""

AVERAGE_POOL = Rewrite(name="average_pool", targets=frozenset({_ATEN.avg_pool2d.default}), build=_average_pool)
"""A mean over k elements as a depthwise convolution by 1/k, within k + 1 float32 roundoffs of the largest."""

BATCH_NORM = Rewrite(
    name="batch_norm", targets=frozenset({_ATEN.batch_norm.default}), build=_batch_norm, inference_only=True
)
"""A norm by fixed statistics as a depthwise 1x1 convolution, within 4 float32 roundoffs of its terms."""
