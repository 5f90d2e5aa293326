"""Clamps by numbers where and as a runtime fuses them rightly. Exact: a clamp only compares, as max pooling does.

Runtimes fuse a clamp with the gemm or the pool before it also where the graph quantizes in between: behind a gemm one
rounding is then lost, behind a pool the qparams of the result.

Ensures: no clamp follows another clamp or a max pool whose result it alone reads; behind a gemm it is a relu or a
hardtanh, which quantizers take for a part of the gemm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.operands import argument
from quantizer_sdk.provenance import ORIGIN_KEY, origin_of

__all__ = ["CLAMPS", "arrange_clamps", "bounds_of_clamp"]

_ATEN = torch.ops.aten
_POOLS = frozenset({_ATEN.max_pool1d.default, _ATEN.max_pool2d.default})
_GEMMS = frozenset(
    {
        _ATEN.linear.default,
        _ATEN.addmm.default,
        _ATEN.conv1d.default,
        _ATEN.conv1d.padding,
        _ATEN.conv2d.default,
        _ATEN.conv2d.padding,
        _ATEN.conv_transpose1d.default,
        _ATEN.conv_transpose2d.input,
    }
)
# The names of the arguments that bound the result, None for an open end; or the bounds themselves.
CLAMPS: dict[Any, tuple[str | float, str | float]] = {
    _ATEN.relu.default: (0.0, math.inf),
    _ATEN.relu_.default: (0.0, math.inf),
    _ATEN.relu6.default: (0.0, 6.0),
    _ATEN.relu6_.default: (0.0, 6.0),
    _ATEN.hardtanh.default: ("min_val", "max_val"),
    _ATEN.hardtanh_.default: ("min_val", "max_val"),
    _ATEN.clamp.default: ("min", "max"),
    _ATEN.clamp_.default: ("min", "max"),
    _ATEN.clamp_min.default: ("min", math.inf),
    _ATEN.clamp_max.default: (-math.inf, "max"),
}
_FUSED = frozenset(target for target in CLAMPS if str(target).startswith(("aten.relu", "aten.hardtanh")))


def arrange_clamps(model: GraphModule, covers: Callable[[Node], bool] = lambda _clamp: True) -> None:
    """Merge clamps that follow one another, put them before max pools, and write those behind gemms as hardtanh.

    Args:
        model: The graph.
        covers: Whether a clamp is to be quantized; others stay as they are.
    """
    for node in list(model.graph.nodes):
        clamp: Node | None = node if node.target in CLAMPS and covers(node) else None
        while clamp is not None:
            clamp = _step(model, clamp)


def _step(model: GraphModule, clamp: Node) -> Node | None:
    """Move a clamp by one op, or merge it, or write it for the gemm before it; return it where more may be to do."""
    bounds = bounds_of_clamp(clamp)
    before = clamp.args[0] if bounds is not None else None
    if bounds is None or not isinstance(before, Node) or len(before.users) != 1:
        return None
    inner = bounds_of_clamp(before)
    operand = before.args[0] if before.args else None
    if before.target in _POOLS and isinstance(operand, Node):
        moved = _clamp(model, before, operand, bounds, clamp)
        before.replace_input_with(operand, moved)
        _replace(model, clamp, before)
        return moved
    if inner is not None and isinstance(operand, Node):
        low, high = (min(max(end, bounds[0]), bounds[1]) for end in inner)
        merged = _clamp(model, clamp, operand, (low, high), clamp)
        _replace(model, clamp, merged)
        model.graph.erase_node(before)
        return merged
    if before.target in _GEMMS and clamp.target not in _FUSED:
        _replace(model, clamp, _clamp(model, clamp, before, bounds, clamp))
    return None


def _replace(model: GraphModule, node: Node, by: Node) -> None:
    node.replace_all_uses_with(by)
    model.graph.erase_node(node)


def bounds_of_clamp(node: Node) -> tuple[float, float] | None:
    """Return the ends of a clamp by numbers; None for all else."""
    if node.op != "call_function" or node.target not in CLAMPS:
        return None
    named = CLAMPS[node.target]
    ends = [argument(node, end) if isinstance(end, str) else end for end in named]
    ends = [default if end is None else end for end, default in zip(ends, (-math.inf, math.inf), strict=True)]
    numbers = all(isinstance(end, (int, float)) for end in ends) and len(node.all_input_nodes) == 1
    return (float(ends[0]), float(ends[1])) if numbers and ends[0] <= ends[1] else None


def _clamp(model: GraphModule, place: Node, operand: Node, bounds: tuple[float, float], origin: Node) -> Node:
    """Put a relu or a hardtanh of an operand before a node, with the provenance of the clamp that it stands for."""
    with model.graph.inserting_before(place):
        if bounds == (0.0, math.inf):
            made = model.graph.call_function(_ATEN.relu.default, (operand,))
        else:
            made = model.graph.call_function(_ATEN.hardtanh.default, (operand, *bounds))
    made.meta.update(origin.meta)
    made.meta[ORIGIN_KEY] = origin_of(origin)
    made.meta["val"] = operand.meta.get("val")
    return made
