"""Narrow ranges of codes as clamps of the codes themselves, for kernels that know the full range of a byte only.

A fused kernel saturates at 0 and 255 whatever the quantize says: a 0..127 output would hold 255. Requires a copy of the
user's model. Ensures: each per-tensor quantize to uint8 has the range 0..255, and gives the same codes as before.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from quantizer_sdk.backends.qdq_forms.new_nodes import add_call

__all__ = ["to_full_ranges"]

_OPS = torch.ops.quantized_decomposed
_QUANTIZES = frozenset({_OPS.quantize_per_tensor.default, _OPS.quantize_per_tensor.tensor})
_LOW, _HIGH = 0, 255


def to_full_ranges(model: GraphModule) -> None:
    """Widen the range of each quantize to uint8 and clamp its codes to what the range was.

    Args:
        model: The graph to change.
    """
    for node in list(model.graph.nodes):
        if node.target not in _QUANTIZES or node.args[5] is not torch.uint8:
            continue
        tensor, scale, zero_point, low, high, dtype = node.args
        if (low, high) == (_LOW, _HIGH):
            continue
        users = list(node.users)
        node.args = (tensor, scale, zero_point, _LOW, _HIGH, dtype)
        clamped = node
        with model.graph.inserting_before(node.next):
            # The upper end first: inductor would take the other order for a hardtanh on floats.
            if high != _HIGH:
                clamped = add_call(torch.ops.aten.clamp_max.default, clamped, high, like=node)
            if low != _LOW:
                clamped = add_call(torch.ops.aten.clamp_min.default, clamped, low, like=node)
        for user in users:
            user.replace_input_with(node, clamped)
    model.recompile()
