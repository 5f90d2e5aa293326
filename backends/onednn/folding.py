"""Products with powers of two before a quantize: they are folded into the factor that this multiplies by anyway."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from quantizer_sdk.backends.onednn.bindings import Binding, is_fresh
from quantizer_sdk.backends.onednn.conversion_ops import QUANTIZE, bound_quantize, quantize
from quantizer_sdk.backends.onednn.editing import only_user
from quantizer_sdk.backends.onednn.linear_op import linear

__all__ = ["Folded", "folded_factors"]

# What two such factors bring out of float32 is quantized to an end of the codes, or to zero, in either order.
_LARGEST_EXPONENT = 40


@dataclass(frozen=True, slots=True)
class Folded:
    """A quantize that multiplies first.

    Attributes:
        product: The product that it reads.
        operand: What that multiplies.
        powers: By what.
        over: Whether the operand may be written over.
    """

    product: Node
    operand: Node
    powers: Tensor
    over: bool

    def binding(self, arguments: tuple[Any, ...]) -> Binding:
        """Return how to call the quantize, of these arguments, on the product's operand."""
        factor = self.powers * torch.tensor(1.0 / arguments[1], dtype=torch.float32)
        scale, zero_point, quant_min, quant_max = arguments[1:]
        function = bound_quantize(scale, zero_point, quant_min, quant_max, factor, over=self.over)
        return Binding(QUANTIZE, (self.operand, *arguments[1:]), function, (self.operand,), {}, (self.powers,))


def folded_factors(graph: Graph, constants: Mapping[Node, Any]) -> dict[Node, Folded]:
    """Return the quantizes that may multiply first, without a change of any bit.

    A number times a power of two is exact, so that rounding comes once, and the same, in either order.

    Args:
        graph: A lowered graph.
        constants: What its nodes read from the module.
    """
    found = {}
    for node in graph.find_nodes(op="call_function", target=quantize):
        product = node.args[0]
        folded = _folded(product, constants) if isinstance(product, Node) and only_user(product) is node else None
        if folded is not None and abs(math.log2(node.args[1])) <= _LARGEST_EXPONENT:
            found[node] = folded
    return found


def _folded(product: Node, constants: Mapping[Node, Any]) -> Folded | None:
    if product.target is not torch.ops.aten.mul.Tensor or product.kwargs:
        return None
    operand, powers = product.args if product.args[1] in constants else product.args[::-1]
    tensor = constants.get(powers) if isinstance(powers, Node) else None
    if not isinstance(operand, Node) or operand in constants or not isinstance(tensor, Tensor):
        return None
    if tensor.dtype is not torch.float32 or tensor.dim() > 1 or not _are_powers(tensor):
        return None
    fresh = operand.target is linear and is_fresh(operand)
    weight = constants.get(operand.args[3]) if fresh else None  # type: ignore[arg-type]
    return Folded(product, operand, tensor, over=weight is not None and tensor.shape in {(), weight.shape[:1]})


def _are_powers(tensor: Tensor) -> bool:
    """Whether all numbers are positive powers of two that are not extreme."""
    mantissa, exponent = torch.frexp(tensor)
    return bool(((mantissa == 0.5) & (exponent.abs() <= _LARGEST_EXPONENT)).all())
