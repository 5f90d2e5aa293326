"""Codes that are moved and padded in place of numbers, so that a quantize is next to the op that it can be fused into.

Requires a copy of the user's model. Ensures: where a quantize reads what only puts elements elsewhere, or pads with
zeros, and nobody else reads that, the quantize comes before it; the codes are the same, for a zero has the code of the
zero point.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.qdq_forms.dequantize_late import VIEWS
from quantizer_sdk.backends.qdq_forms.new_nodes import add_call

__all__ = ["quantize_early"]

_aten = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_PAD, _PAD_MODES = _aten.constant_pad_nd.default, _aten.pad.default


def quantize_early(model: GraphModule) -> None:
    """Move quantizes before the views and the padding that they read.

    Args:
        model: The graph to change.
    """
    for node in model.graph.find_nodes(op="call_function", target=_QUANTIZE):
        quantize = node
        while (arguments := _arguments_on_codes(quantize)) is not None:
            quantize = _moved(quantize, arguments)
    model.recompile()


def _arguments_on_codes(quantize: Node) -> tuple[Any, ...] | None:
    """Return the target, and the arguments after the tensor, of the op that is to move codes; None where none can."""
    moved: Any = quantize.args[0]
    if moved.op != "call_function" or len(moved.users) != 1 or not isinstance(moved.args[0], Node):
        return None
    if len(moved.args[0].users) != 1 or moved.args[0].op == "get_attr":
        return None
    if moved.target in VIEWS and not moved.kwargs:
        return (moved.target, *moved.args[1:])
    given = dict(zip(("pad", "mode" if moved.target is _PAD_MODES else "value", "value"), moved.args[1:], strict=False))
    given.update(moved.kwargs)
    pads_zeros = given.get("mode", "constant") == "constant" and given.get("value") in (None, 0)
    if moved.target in {_PAD, _PAD_MODES} and pads_zeros:
        return (_PAD, given["pad"], quantize.args[2])
    return None


def _moved(quantize: Node, arguments: tuple[Any, ...]) -> Node:
    """Quantize before the op; return the new quantize."""
    old: Any = quantize.args[0]
    target, *rest = arguments
    with quantize.graph.inserting_before(old):
        early = add_call(_QUANTIZE, old.args[0], *quantize.args[1:], like=quantize)
        codes = add_call(target, early, *rest, like=old)
    quantize.replace_all_uses_with(codes)
    quantize.graph.erase_node(quantize)
    quantize.graph.erase_node(old)
    return early
