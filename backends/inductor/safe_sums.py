"""Products that add into the tensor they add to, made safe.

Inductor fuses `linear(y) + x` into a kernel that overwrites x, also where x is the caller's own tensor or a buffer, so
that the next call is wrong; for `conv(y) + x` it crashes where x is a view. Ensures, on inductor's graph: a linear adds
without overwriting; a convolution, which has no such form, overwrites only what was made for it.
"""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

__all__ = ["make_sums_safe"]

_aten = torch.ops.aten
_onednn = torch.ops.onednn
_LINEARS = (_onednn.qlinear_pointwise.binary, _onednn.qlinear_pointwise.binary_tensor)
_CONVOLUTIONS = (_onednn.qconv2d_pointwise.binary, _onednn.qconv2d_pointwise.binary_tensor)
_OTHER = 6
"""The place of the operand that is added."""
_IN_PLACE, _OUT_OF_PLACE = "sum", "add"
_OPS = torch.ops.quantized_decomposed
# These always write a tensor of their own.
_FRESH = frozenset(
    {
        *(_OPS.quantize_per_tensor.default, _OPS.quantize_per_tensor.tensor),
        *(_OPS.dequantize_per_tensor.default, _OPS.dequantize_per_tensor.tensor),
        *(_onednn.qconv_pointwise.default, _onednn.qconv_pointwise.tensor, *_CONVOLUTIONS),
        *(_onednn.qlinear_pointwise.default, _onednn.qlinear_pointwise.tensor, *_LINEARS),
    }
)


def make_sums_safe(graph: Graph) -> None:
    """Rewrite the in-place additions of one of inductor's graphs, where needed."""
    for target in _LINEARS:
        for node in graph.find_nodes(op="call_function", target=target):
            node.args = tuple(_OUT_OF_PLACE if value == _IN_PLACE else value for value in node.args)
    sums = [node for target in _CONVOLUTIONS for node in graph.find_nodes(op="call_function", target=target)]
    if not sums:
        return
    places = {node: place for place, node in enumerate(graph.nodes)}
    for node in sums:
        other = node.args[_OTHER]
        assert isinstance(other, Node)
        before_it = all(user is node or _reads_before(user, places, places[node]) for user in other.users)
        if other.target in _FRESH and before_it:
            continue
        with graph.inserting_before(node):
            # The larger of x and x is x. A clone would be taken out again as one that does nothing.
            copied = graph.call_function(_aten.maximum.default, (other, other))
            copied.meta.update(other.meta)
        node.update_arg(_OTHER, copied)


def _reads_before(user: Node, places: dict[Node, int], end: int) -> bool:
    """Whether a user is done with a tensor before a place in the graph, and hands out no view of it."""
    return user.target in _FRESH and places[user] < end
