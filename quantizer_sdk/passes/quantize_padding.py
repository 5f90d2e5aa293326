"""Quantize what padding with zeros makes of quantized values, for compilers that pad the codes whoever reads them.

Ensures: where a dequantize is padded with zeros, the result is quantized before an op that computes in float reads it.
Exact: the values are those of codes already, and 0 is that of the zero point, so that nothing is rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.operands import argument
from quantizer_sdk.qdq import Layout, is_dequantize, is_quantize

__all__ = ["quantize_padding"]

_PADS = frozenset({torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default})
_QUANTIZE, _DEQUANTIZE = Layout.PER_TENSOR.value


def quantize_padding(model: GraphModule) -> None:
    """Put a quantize and a dequantize between padding and each of its readers that computes in float."""
    for pad in list(model.graph.nodes):
        if pad.target not in _PADS or not _pads_with_zeros(pad):
            continue
        codes = pad.args[0]
        if not isinstance(codes, Node) or codes.target is not _DEQUANTIZE:
            continue
        for user in list(pad.users):
            if not _computes_on_codes(user):
                _quantize_between(model, codes, pad, user)
        if not pad.users:
            model.graph.erase_node(pad)
            model.graph.erase_node(codes)
    model.recompile()


def _quantize_between(model: GraphModule, codes: Node, pad: Node, user: Node) -> None:
    """Let a user read padding of its own, quantized: each dequantize and each pad keeps its one user."""
    node: Any = codes.args[0]
    with model.graph.inserting_before(user if user.op != "output" else pad.next):
        for origin, target, arguments, keywords in (
            (codes, _DEQUANTIZE, codes.args[1:], codes.kwargs),
            (pad, pad.target, pad.args[1:], pad.kwargs),
            (pad, _QUANTIZE, codes.args[1:], {}),
            (pad, _DEQUANTIZE, codes.args[1:], codes.kwargs),
        ):
            node = model.graph.call_function(target, (node, *arguments), dict(keywords))  # type: ignore[arg-type]
            node.meta.update(origin.meta)
    user.replace_input_with(pad, node)


def _pads_with_zeros(pad: Node) -> bool:
    mode = argument(pad, "mode") if pad.target is torch.ops.aten.pad.default else "constant"
    return mode == "constant" and argument(pad, "value") in (None, 0)


def _computes_on_codes(user: Node) -> bool:
    """Whether an op quantizes what it reads, or is a kernel with an integer weight, which pads by itself."""
    constants = (operand for operand in user.all_input_nodes if is_dequantize(operand))
    return is_quantize(user) or any(operand.all_input_nodes[0].op == "get_attr" for operand in constants)
