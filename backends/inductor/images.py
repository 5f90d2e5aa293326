"""Convolutions of signals as convolutions of images of one row, for which inductor's kernels are complete.

A fused conv1d takes no activation but relu, and adds nothing: both are refused when it runs. Requires a copy of the
user's model whose dequantizes have one user each. Ensures: a conv1d of dequantized codes is a conv2d, and so is what
follows it up to the quantize; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.qdq_forms.gemm_weights import is_dequantize, weight_of
from quantizer_sdk.backends.qdq_forms.new_nodes import add_call, add_constant, constant_of

__all__ = ["to_images"]

_aten = torch.ops.aten
_OPS = torch.ops.quantized_decomposed
_IMAGES = {_aten.conv1d.default: _aten.conv2d.default, _aten.conv1d.padding: _aten.conv2d.padding}
_ROW = 2
"""The axis that is added."""
_ACTIVATIONS = frozenset(
    {
        *(_aten.relu.default, _aten.relu_.default, _aten.relu6.default, _aten.relu6_.default),
        *(_aten.hardtanh.default, _aten.hardtanh_.default, _aten.clamp.default, _aten.clamp_.default),
        *(_aten.clamp_min.default, _aten.clamp_max.default, _aten.sigmoid.default, _aten.tanh.default),
        *(_aten.hardswish.default, _aten.hardswish_.default, _aten.hardsigmoid.default, _aten.leaky_relu.default),
        *(_aten.silu.default, _aten.silu_.default, _aten.gelu.default, _aten.elu.default, _aten.leaky_relu_.default),
    }
)
_ADDITIONS = frozenset({_aten.add.Tensor, _aten.add_.Tensor})
_QUANTIZES = frozenset({_OPS.quantize_per_tensor.default, _OPS.quantize_per_tensor.tensor})


def to_images(model: GraphModule) -> None:
    """Rewrite convolutions of signals.

    Args:
        model: The graph to change.
    """
    for target in _IMAGES:
        for conv in model.graph.find_nodes(op="call_function", target=target):
            activation, weight = conv.args[0], weight_of(conv)
            if weight is not None and is_dequantize(activation) and _is_batch(conv):
                _to_image(model, conv, activation, weight)
    model.recompile()


def _is_batch(conv: Node) -> bool:
    example = conv.meta.get("val")
    return isinstance(example, torch.Tensor) and example.dim() == 3


def _to_image(model: GraphModule, conv: Node, activation: Node, weight: Node) -> None:
    codes = weight.args[0]
    value = constant_of(model, codes)
    assert isinstance(codes, Node)
    assert value is not None
    weight.update_arg(0, add_constant(model, codes, value.unsqueeze(_ROW), "image"))
    _give_row(weight)
    _put_row_before(activation)
    rest = dict(zip(("bias", "stride", "padding", "dilation", "groups"), conv.args[2:], strict=False))
    stride, dilation = (_single(rest.get(name, 1)) for name in ("stride", "dilation"))
    padding = rest.get("padding", "valid" if conv.target is _aten.conv1d.padding else 0)
    padding = padding if isinstance(padding, str) else [0, _single(padding)]
    conv.target = _IMAGES[conv.target]  # type: ignore[index]  # one of them
    shape = ([1, stride], padding, [1, dilation], rest.get("groups", 1))
    conv.args = (activation, weight, rest.get("bias"), *shape)
    last = conv
    for last in _followers(conv):
        _give_row(last)
    users = list(last.users)
    with model.graph.inserting_before(last.next):
        signal = model.graph.call_function(_aten.squeeze.dim, (last, _ROW))
    signal.meta.update({**last.meta, "val": last.meta["val"].squeeze(_ROW)})
    for user in users:
        user.replace_input_with(last, signal)


def _single(value: Any) -> int:
    return int(value[0]) if isinstance(value, (list, tuple)) else int(value)


def _followers(conv: Node) -> Iterator[Node]:
    """Yield the convolution and what inductor can fuse into it: activations, an addition, and a quantize at the end."""
    node = conv
    while True:
        yield node
        if node.target in _QUANTIZES or len(node.users) != 1:
            return
        (user,) = node.users
        if user.target in _ADDITIONS and _other_of_same_shape(user, node):
            _put_row_on_other(user, node)
        elif user.target not in _ACTIVATIONS | _QUANTIZES or user.args[0] is not node:
            return
        node = user


def _other_of_same_shape(addition: Node, node: Node) -> bool:
    """Whether an addition adds a tensor of the result's shape, and nothing is scaled."""
    first, second = addition.args[:2]
    other = second if first is node else first
    if not isinstance(other, Node) or other is node or addition.kwargs:
        return False
    example = other.meta.get("val")
    return isinstance(example, torch.Tensor) and example.shape == addition.meta["val"].shape


def _put_row_on_other(addition: Node, node: Node) -> None:
    (other,) = [operand for operand in addition.all_input_nodes if operand is not node]
    if is_dequantize(other) and len(other.users) == 1:
        _put_row_before(other)
        return
    with addition.graph.inserting_before(addition):
        row = add_call(_aten.unsqueeze.default, other, _ROW, like=other)
    addition.replace_input_with(other, row)


def _put_row_before(dequantize: Node) -> None:
    """Add the axis to the codes that are dequantized."""
    with dequantize.graph.inserting_before(dequantize):
        row = add_call(_aten.unsqueeze.default, dequantize.args[0], _ROW, like=dequantize)
    dequantize.update_arg(0, row)
    _give_row(dequantize)


def _give_row(node: Node) -> None:
    if isinstance(node.meta.get("val"), torch.Tensor):
        node.meta["val"] = node.meta["val"].unsqueeze(_ROW)
