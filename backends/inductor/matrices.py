"""Linears of one vector as linears of a matrix with one row, which inductor has integer kernels for.

Requires a copy of the user's model whose dequantizes have one user each. Ensures: no linear has a dequantized
activation of one dimension.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.qdq_forms.gemm_weights import is_dequantize
from quantizer_sdk.backends.qdq_forms.new_nodes import add_call

__all__ = ["to_matrices"]

_aten = torch.ops.aten


def to_matrices(model: GraphModule) -> None:
    """Rewrite linears of one vector.

    Args:
        model: The graph to change.
    """
    for linear in model.graph.find_nodes(op="call_function", target=_aten.linear.default):
        activation = linear.args[0]
        if not is_dequantize(activation) or not _is_vector(activation.args[0]):
            continue
        with model.graph.inserting_before(activation):
            row = add_call(_aten.unsqueeze.default, activation.args[0], 0, like=activation)
        activation.update_arg(0, row)
        users = list(linear.users)
        with model.graph.inserting_before(linear.next):
            vector = model.graph.call_function(_aten.squeeze.dim, (linear, 0))
        vector.meta.update(linear.meta)
        for user in users:
            user.replace_input_with(linear, vector)
        for node in (activation, linear):
            node.meta["val"] = node.meta["val"].unsqueeze(0)
    model.recompile()


def _is_vector(node: Node) -> bool:
    example = node.meta.get("val")
    return isinstance(example, torch.Tensor) and example.dim() == 1
