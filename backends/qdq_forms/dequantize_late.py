"""Views of codes in place of views of what they stand for, so that a dequantize is next to the op that it is for.

Requires a copy of the user's model. Ensures: where a dequantize of an activation had one user, and that only puts
elements elsewhere, the codes are put there and dequantized after; the numbers are the same.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.qdq_forms.new_nodes import add_call

__all__ = ["VIEWS", "dequantize_late"]

_aten = torch.ops.aten
_OPS = torch.ops.quantized_decomposed
_DEQUANTIZES = frozenset({_OPS.dequantize_per_tensor.default, _OPS.dequantize_per_tensor.tensor})
VIEWS = frozenset(
    {
        *(_aten.view.default, _aten.reshape.default, _aten.flatten.using_ints, _aten.unflatten.int),
        *(_aten.transpose.int, _aten.permute.default, _aten.t.default, _aten.unsqueeze.default),
        *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.contiguous.default),
        *(_aten.slice.Tensor, _aten.select.int, _aten.expand.default),
    }
)
"""What only puts elements elsewhere."""


def dequantize_late(model: GraphModule) -> None:
    """Move dequantizes behind the views that follow them.

    Args:
        model: The graph to change.
    """
    for node in list(model.graph.nodes):
        if node.target not in _DEQUANTIZES or node.args[0].op == "get_attr":
            continue
        while len(node.users) == 1 and (user := next(iter(node.users))).target in VIEWS and _is_view_of(user, node):
            node = _swapped(node, user)  # noqa: PLW2901  the one dequantize, at its new place
    model.recompile()


def _is_view_of(view: Node, node: Node) -> bool:
    """Whether the viewed tensor, and nothing else such as a size, comes from a node."""
    return view.args[0] is node and not view.kwargs


def _swapped(dequantize: Node, view: Node) -> Node:
    """Dequantize after the view; return the new dequantize."""
    codes, *qparams = dequantize.args
    with view.graph.inserting_before(view):
        viewed = add_call(view.target, codes, *view.args[1:], like=view)  # type: ignore[arg-type]  # an overload
        late = view.graph.call_function(dequantize.target, (viewed, *qparams), dict(dequantize.kwargs))  # type: ignore[arg-type]
    late.meta.update(view.meta)
    view.replace_all_uses_with(late)
    view.graph.erase_node(view)
    view.graph.erase_node(dequantize)
    return late
