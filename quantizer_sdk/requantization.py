"""By how much a kernel's accumulator is scaled to the codes of its result, read from a converted graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants
from quantizer_sdk.provenance import describe
from quantizer_sdk.qdq import Layout, is_dequantize

__all__ = ["RatioLimit", "excessive_requantization"]

_QUANTIZE, _DEQUANTIZE = Layout.PER_TENSOR.value


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioLimit:
    """What a kernel's requantization ratio must stay below.

    Attributes:
        limit: The bound, itself excluded.
        multiplies: Whether the kernel multiplies its first two operands, so that the ratio is that of the product of
            their scales to the result's, instead of the larger one's.
    """

    limit: float
    multiplies: bool


def excessive_requantization(model: GraphModule, limits: Mapping[Any, RatioLimit]) -> Iterator[str]:
    """Yield each kernel whose ratio a backend does not take, with what would be accepted.

    Args:
        model: A converted graph; only static qparams that are numbers, and scales of constants, are looked at.
        limits: By the overload that computes; what follows it up to the quantize op is taken for part of its kernel.
    """
    constants = Constants(model)
    for quantize in model.graph.find_nodes(op="call_function", target=_QUANTIZE):
        op = quantize.args[0]
        while isinstance(op, Node) and op.target not in limits and len(op.all_input_nodes) == 1:
            op = op.all_input_nodes[0]
            if is_dequantize(op):
                break
        if not isinstance(op, Node) or op.target not in limits:
            continue
        bound = limits[op.target]
        scales = [scale for operand in op.args[:3] if (scale := _scale(operand, constants)) is not None][:2]
        if len(scales) < 2:
            continue
        output = float(quantize.args[1])
        ratio = (scales[0] * scales[1] if bound.multiplies else max(scales)) / output
        if ratio >= bound.limit:
            least = ratio * output / bound.limit
            yield (
                f"{describe(op)} is requantized by {ratio:.4g}, from scales {scales[0]:.4g} and {scales[1]:.4g} to "
                f"{output:.4g}; the kernel takes ratios below {bound.limit:g}, so a scale of the result above "
                f"{least:.4g}: calibrate with data on which the result is not all but constant, or leave the op float"
            )


def _scale(operand: object, constants: Constants) -> float | None:
    """Return the largest scale of a dequantized operand; None for any other."""
    if not isinstance(operand, Node) or not is_dequantize(operand):
        return None
    scale = operand.args[1]
    if isinstance(scale, Node):
        return float(constants.read(scale).max()) if scale.op == "get_attr" else None
    return float(scale)  # type: ignore[arg-type]
