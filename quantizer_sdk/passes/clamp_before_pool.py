"""Clamp before max pooling instead of after it: exactly the same, since both only compare.

A clamp before the pool fuses with the layer before that. Behind the pool, runtimes that fuse it there lose the qparams
of its result.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

__all__ = ["clamp_before_pool"]

_ATEN = torch.ops.aten
_POOLS = frozenset({_ATEN.max_pool1d.default, _ATEN.max_pool2d.default})
_CLAMPS = {
    _ATEN.relu.default: _ATEN.relu.default,
    _ATEN.relu_.default: _ATEN.relu.default,
    _ATEN.relu6.default: _ATEN.relu6.default,
    _ATEN.relu6_.default: _ATEN.relu6.default,
    _ATEN.hardtanh.default: _ATEN.hardtanh.default,
    _ATEN.hardtanh_.default: _ATEN.hardtanh.default,
    _ATEN.clamp.default: _ATEN.clamp.default,
    _ATEN.clamp_.default: _ATEN.clamp.default,
    _ATEN.clamp_min.default: _ATEN.clamp_min.default,
    _ATEN.clamp_max.default: _ATEN.clamp_max.default,
}


def clamp_before_pool(model: GraphModule) -> None:
    """Swap every max pool with the clamps by numbers behind it, if nothing else reads the pool's result."""
    for clamp in list(model.graph.nodes):
        pool = clamp.args[0] if clamp.target in _CLAMPS and len(clamp.all_input_nodes) == 1 else None
        if not isinstance(pool, Node) or pool.target not in _POOLS or len(pool.users) != 1:
            continue
        operand = pool.args[0]
        assert isinstance(operand, Node)
        with model.graph.inserting_before(pool):
            clamped = model.graph.call_function(_CLAMPS[clamp.target], (operand, *clamp.args[1:]), dict(clamp.kwargs))
        clamped.meta.update(clamp.meta)
        clamped.meta["val"] = operand.meta.get("val")
        pool.replace_input_with(operand, clamped)
        clamp.replace_all_uses_with(pool)
        model.graph.erase_node(clamp)
