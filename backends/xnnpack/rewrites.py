"""Exact rewrites into forms that XNNPACK's integer kernels take."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

__all__ = ["keep_mean_axes", "reshape_statically"]

_ATEN = torch.ops.aten
_SQUEEZES = frozenset(
    {_ATEN.squeeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims, _ATEN.unsqueeze.default, _ATEN.unflatten.int}
)
_VIEWS = frozenset({_ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default})


def reshape_statically(model: GraphModule) -> None:
    """Write what only renames axes as a reshape to numbers, with -1 for a dynamic axis: all else leaves the delegate.

    That is squeeze, unsqueeze, unflatten, and views to sizes computed at run time. Left alone where two axes of the
    result are dynamic: a reshape can leave only one open.
    """
    for node in list(model.graph.nodes):
        sizes = node.args[1] if node.target in _VIEWS else ()
        computed = [size for size in sizes if isinstance(size, Node)] if isinstance(sizes, (list, tuple)) else []
        if node.target not in _SQUEEZES and not computed:
            continue
        shape = _static_shape(node)
        if shape is None:
            continue
        _replace(model, node, _ATEN.reshape.default, (node.args[0], shape))
        for size in dict.fromkeys(computed):
            if not size.users:
                model.graph.erase_node(size)


def keep_mean_axes(model: GraphModule) -> None:
    """Write a mean that drops its axes as one that keeps them, and a reshape: only the former has an integer kernel."""
    for node in list(model.graph.nodes):
        if node.target is not _ATEN.mean.dim or (len(node.args) > 2 and node.args[2]) or node.kwargs:
            continue
        operand, dims = node.args[0], node.args[1]
        value, shape = operand.meta.get("val"), _static_shape(node)
        if not isinstance(value, torch.Tensor) or shape is None or not dims:
            continue
        with model.graph.inserting_before(node):
            kept = model.graph.call_function(_ATEN.mean.dim, (operand, dims, True))
        kept.meta.update(node.meta)
        kept.meta["val"] = value.mean(dims, keepdim=True)
        _replace(model, node, _ATEN.reshape.default, (kept, shape))


def _static_shape(node: Node) -> list[int] | None:
    """Return the shape of a node's result with -1 for its dynamic axis; None where it has several, or is unknown."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    shape = [size if isinstance(size, int) else -1 for size in value.shape]
    return shape if shape.count(-1) <= 1 else None


def _replace(model: GraphModule, node: Node, target: torch._ops.OpOverload, args: tuple[object, ...]) -> None:
    with model.graph.inserting_before(node):
        new = model.graph.call_function(target, args)  # type: ignore[arg-type]
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    model.graph.erase_node(node)
