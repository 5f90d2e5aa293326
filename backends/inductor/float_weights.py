"""Weights of products that stay float, as the float numbers that they stand for.

Inductor would dequantize them anew at each call, crashes over those of transposed convolutions, and ignores zero
points. Requires a copy of the user's model in normal form. Ensures: only products that an integer kernel can take have
quantized weights.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from quantizer_sdk.backends.qdq_forms.gemm_weights import weight_of
from quantizer_sdk.backends.qdq_forms.new_nodes import add_constant, constant_of

__all__ = ["to_float_weights"]


def to_float_weights(model: GraphModule, gemms: Iterable[Node]) -> None:
    """Store the weights of these products in float.

    Args:
        model: The graph to change.
        gemms: Products whose weight is a dequantized constant.
    """
    done: dict[Node, Node] = {}
    for gemm in gemms:
        weight = weight_of(gemm)
        assert weight is not None
        if any(node.op != "get_attr" for node in weight.all_input_nodes):
            continue  # its qparams are computed
        if weight not in done:
            stored = weight.args[0]
            assert isinstance(stored, Node)
            assert callable(weight.target)
            with torch.no_grad():
                value = weight.target(*map_arg(weight.args, lambda node: constant_of(model, node)), **weight.kwargs)
            done[weight] = add_constant(model, stored, value, "float")
        users = [user for user in weight.users if user is gemm or gemm in user.users]
        for user in users:
            user.replace_input_with(weight, done[weight])
    model.graph.eliminate_dead_code()
    model.recompile()
