"""Dequantizes to another float type than float32 as two steps, which inductor's patterns for int8-bf16 mixed look for.

They take a dequantize for one to float32 whatever its `out_dtype` says, and the model's result has the wrong type.
Requires a copy of the user's model. Ensures: each dequantize gives float32, and a cast follows where it did not.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from quantizer_sdk.backends.qdq_forms.gemm_weights import is_dequantize

__all__ = ["separate_casts"]

_KEY = "out_dtype"


def separate_casts(model: GraphModule) -> None:
    """Put a cast after each dequantize that gives another type.

    Args:
        model: The graph to change.
    """
    for node in list(model.graph.nodes):
        dtype = node.kwargs.get(_KEY) if is_dequantize(node) else None
        if dtype in {None, torch.float32}:
            continue
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != _KEY}
        users = list(node.users)
        with model.graph.inserting_before(node.next):
            cast = model.graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
        cast.meta.update(node.meta)
        for user in users:
            user.replace_input_with(node, cast)
    model.recompile()
