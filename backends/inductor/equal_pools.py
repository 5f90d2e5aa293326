"""Max pools whose result has the qparams of their operand, the only ones for which inductor's kernel is right.

Inductor takes dequantize, max pool and quantize for one pool of codes whatever the two scales are: where they differ,
nearly every code is wrong. Requires a copy of the user's model. Ensures: after a max pool of dequantized codes comes a
quantize with the same qparams, and what was there quantizes anew; the numbers are the same.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from quantizer_sdk.backends.qdq_forms.new_nodes import add_call

__all__ = ["requantize_pools"]

_aten = torch.ops.aten
_OPS = torch.ops.quantized_decomposed
_POOLS = (_aten.max_pool1d.default, _aten.max_pool2d.default, _aten.max_pool3d.default)
_QUANTIZE, _DEQUANTIZE = _OPS.quantize_per_tensor.default, _OPS.dequantize_per_tensor.default


def requantize_pools(model: GraphModule) -> None:
    """Put a quantize and a dequantize after each max pool that is quantized with other qparams than its operand's.

    Args:
        model: The graph to change.
    """
    pools = [pool for target in _POOLS for pool in model.graph.find_nodes(op="call_function", target=target)]
    for pool in pools:
        source = pool.args[0]
        if source.target is not _DEQUANTIZE:
            continue
        _, scale, zero_point, *_, dtype = source.args
        users = list(pool.users)
        if all(user.target is not _QUANTIZE or user.args[1:3] == (scale, zero_point) for user in users):
            continue
        ends = torch.iinfo(dtype)
        qparams = (scale, zero_point, ends.min, ends.max, dtype)
        with model.graph.inserting_before(pool.next):
            codes = add_call(_QUANTIZE, pool, *qparams, like=pool)
            numbers = add_call(_DEQUANTIZE, codes, *qparams, like=pool, **source.kwargs)
        for user in users:
            user.replace_input_with(pool, numbers)
    model.recompile()
