"""Padding of convolutions as numbers, which is what kernels take, in place of "same" and "valid".

Requires a copy of the user's model. Ensures: a convolution of dequantized codes has numbers for its padding; where
"same" pads one end more than the other, the codes are padded before, with their zero point.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.qdq_forms.new_nodes import add_call

__all__ = ["to_number_padding"]

_aten = torch.ops.aten
_PLAIN = {
    _aten.conv1d.padding: (_aten.conv1d.default, 1),
    _aten.conv2d.padding: (_aten.conv2d.default, 2),
    _aten.conv3d.padding: (_aten.conv3d.default, 3),
}
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default


def to_number_padding(model: GraphModule) -> None:
    """Rewrite the padding of convolutions whose activation is dequantized; others keep theirs.

    Args:
        model: The graph to change; its weights have example values.
    """
    for target, (plain, axes) in _PLAIN.items():
        for conv in model.graph.find_nodes(op="call_function", target=target):
            activation, weight = conv.args[:2]
            if activation.target is _DEQUANTIZE and isinstance(weight.meta.get("val"), torch.Tensor):
                _rewrite(conv, plain, axes)
    model.recompile()


def _rewrite(conv: Node, plain: torch._ops.OpOverload, axes: int) -> None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given: dict[str, Any] = {**dict(zip(names, conv.args, strict=False)), **conv.kwargs}
    dilation = _each(given.get("dilation", 1), axes)
    padding = [0] * axes
    if given.get("padding", "valid") == "same":
        kernel = given["weight"].meta["val"].shape[2:]
        totals = [d * (size - 1) for d, size in zip(dilation, kernel, strict=True)]
        padding = [total // 2 for total in totals]
        if any(total % 2 for total in totals):
            given["input"] = _padded(conv, given["input"], totals)
            padding = [0] * axes
    conv.target = plain
    conv.kwargs = {}
    shape = (_each(given.get("stride", 1), axes), padding, dilation, given.get("groups", 1))
    conv.args = (given["input"], given["weight"], given.get("bias"), *shape)


def _padded(conv: Node, dequantize: Node, totals: list[int]) -> Node:
    """Return the padded activation; the end of an axis takes the odd element."""
    codes, *qparams = dequantize.args
    ends = [end for total in reversed(totals) for end in (total // 2, total - total // 2)]
    with conv.graph.inserting_before(conv):
        padded = add_call(_aten.constant_pad_nd.default, codes, ends, qparams[1], like=conv)
        return add_call(_DEQUANTIZE, padded, *qparams, like=conv, **dequantize.kwargs)


def _each(value: Any, axes: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * axes if len(values) == 1 else values
