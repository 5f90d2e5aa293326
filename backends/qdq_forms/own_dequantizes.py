"""A dequantize for each use of its result, for compilers that fuse one only with its single user.

Requires a copy of the user's model. Ensures: every dequantize has one user.
"""

from __future__ import annotations

from torch.fx import GraphModule

from quantizer_sdk.backends.qdq_forms.gemm_weights import is_dequantize

__all__ = ["give_each_use_its_dequantize"]


def give_each_use_its_dequantize(model: GraphModule) -> None:
    """Copy dequantizes that several nodes read, activations and weights alike.

    Args:
        model: The graph to change; the tensors of codes stay shared.
    """
    for node in list(model.graph.nodes):
        if not is_dequantize(node):
            continue
        for user in list(node.users)[1:]:
            with model.graph.inserting_before(user):
                copied = model.graph.node_copy(node)
            user.replace_input_with(node, copied)
    model.recompile()
