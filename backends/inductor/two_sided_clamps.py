"""Clamps of one side as clamps of two, the form that is fused into a convolution.

Requires a copy of the user's model. Ensures: what only clamps the result of a convolution from below or above, and is
quantized then, has an end on the other side too, at the largest number: it has the same code as an infinite one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.qdq_forms.gemm_weights import CONVOLUTIONS

__all__ = ["to_two_sided_clamps"]

_aten = torch.ops.aten
_LARGEST = torch.finfo(torch.float32).max
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_LOWER = frozenset({_aten.clamp_min.default, _aten.clamp_min_.default})
_UPPER = frozenset({_aten.clamp_max.default, _aten.clamp_max_.default})
_BOTH = frozenset({_aten.clamp.default, _aten.clamp_.default})


def to_two_sided_clamps(model: GraphModule) -> None:
    """Rewrite clamps between a convolution and a quantize.

    Args:
        model: The graph to change.
    """
    for node in model.graph.nodes:
        if node.target not in _LOWER | _UPPER | _BOTH or node.args[0].target not in CONVOLUTIONS:
            continue
        if not node.users or any(user.target is not _QUANTIZE for user in node.users):
            continue
        low, high = _ends(node)
        node.target = _aten.clamp.default
        node.args = (node.args[0], -_LARGEST if low is None else low, _LARGEST if high is None else high)
        node.kwargs = {}
    model.recompile()


def _ends(node: Node) -> list[Any]:
    """Return the ends of a clamp, None for one that is open."""
    names = ("min",) if node.target in _LOWER else ("max",) if node.target in _UPPER else ("min", "max")
    given = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
    return [given.get(name) for name in ("min", "max")]
