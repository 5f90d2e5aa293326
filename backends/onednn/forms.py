"""One form for what can be written in several: uint8 codes, ops that write into no operand, quantizes next to theirs.

Requires a copy of a converted model. Ensures, without a change of any number: codes of activations are uint8, with
int8 only where the model takes or gives it; embeddings look up codes; elementwise ops write into no tensor that only
they read; quantizes and dequantizes stand above and below what only moves elements, as far as that leaves the numbers
alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onednn.editing import (
    DEQUANTIZE,
    QUANTIZE,
    Editor,
    call_of,
    codes_of,
    only_user,
    quantize_of,
)
from quantizer_sdk.backends.onednn.moves import move_of
from quantizer_sdk.backends.qdq_forms import gather_codes, to_unsigned_activations

__all__ = ["arrange"]

_ATEN = torch.ops.aten
_OUT_OF_PLACE = {
    _ATEN.relu_.default: _ATEN.relu.default,
    _ATEN.relu6_.default: _ATEN.relu6.default,
    _ATEN.hardtanh_.default: _ATEN.hardtanh.default,
    _ATEN.clamp_.default: _ATEN.clamp.default,
    _ATEN.clamp_min_.default: _ATEN.clamp_min.default,
    _ATEN.clamp_max_.default: _ATEN.clamp_max.default,
    _ATEN.hardswish_.default: _ATEN.hardswish.default,
    _ATEN.hardsigmoid_.default: _ATEN.hardsigmoid.default,
    _ATEN.silu_.default: _ATEN.silu.default,
    _ATEN.gelu_.default: _ATEN.gelu.default,
    _ATEN.leaky_relu_.default: _ATEN.leaky_relu.default,
    _ATEN.elu_.default: _ATEN.elu.default,
    _ATEN.tanh_.default: _ATEN.tanh.default,
    _ATEN.sigmoid_.default: _ATEN.sigmoid.default,
    _ATEN.add_.Tensor: _ATEN.add.Tensor,
    _ATEN.sub_.Tensor: _ATEN.sub.Tensor,
    _ATEN.mul_.Tensor: _ATEN.mul.Tensor,
}


def arrange(editor: Editor) -> None:
    """Bring a graph into the form that the module's docstring names."""
    _write_nowhere(editor)
    _pad_apart(editor)
    to_unsigned_activations(editor.model)
    gather_codes(editor.model)
    written = frozenset(_written(editor))
    for node in written:
        editor.part(node)
    _share(editor, written)
    _raise_quantizes(editor, written)
    _lower_dequantizes(editor, written)
    _cancel(editor)


def _write_nowhere(editor: Editor) -> None:
    """Replace ops that write into what only they read, and that is no view, by those that write into nothing."""
    for node in editor.calls(*_OUT_OF_PLACE):
        operand = node.args[0]
        if not isinstance(operand, Node) or operand.op != "call_function" or only_user(operand) is not node:
            continue
        if move_of(operand) is None and _same_shape(operand, node):
            node.target = _OUT_OF_PLACE[node.target]  # type: ignore[index]


_SAME = {
    _ATEN.conv1d.padding: _ATEN.conv1d.default,
    _ATEN.conv2d.padding: _ATEN.conv2d.default,
    _ATEN.conv3d.padding: _ATEN.conv3d.default,
}


def _pad_apart(editor: Editor) -> None:
    """Pad before a convolution what it pads by more on one side than on the other."""
    for node in editor.calls(*_SAME):
        call = call_of(node)
        shape = getattr(call["weight"].meta.get("val"), "shape", None)
        if call["padding"] != "same" or shape is None:
            continue
        kernel = [int(size) for size in shape[2:]]
        dilation = list(call["dilation"]) * (len(kernel) if len(call["dilation"]) == 1 else 1)
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if all(total % 2 == 0 for total in reach):
            continue
        pads = [part for total in reversed(reach) for part in (total // 2, total - total // 2)]
        padded = editor.call(node, _ATEN.constant_pad_nd.default, (call["input"], pads, 0.0))
        rest = (call["weight"], call["bias"], call["stride"], [0] * len(kernel), dilation, call["groups"])
        node.target, node.args, node.kwargs = _SAME[node.target], (padded, *rest), {}  # type: ignore[index]


def _same_shape(one: Node, other: Node) -> bool:
    shapes = [getattr(node.meta.get("val"), "shape", None) for node in (one, other)]
    return str(shapes[0]) == str(shapes[1])


def _written(editor: Editor) -> list[Node]:
    """Return the nodes that an op writes into, with those that they are views of."""
    found: list[Node] = []
    for node in editor.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        operand: Any = node.args[0] if node.args else None
        while isinstance(operand, Node):
            found.append(operand)
            operand = operand.args[0] if operand.args and move_of(operand) is not None else None
    return found


def _share(editor: Editor, written: frozenset[Node]) -> None:
    """Keep one quantize of a tensor for each set of qparams, right behind it."""
    first: dict[tuple[Any, ...], Node] = {}
    for node in editor.calls(QUANTIZE):
        operand = node.args[0]
        if operand in written or not isinstance(operand, Node):
            continue
        known = first.setdefault(node.args, node)
        if known is not node:
            editor.replace(node, known)
        elif operand.op == "call_function":
            operand.append(node)


def _raise_quantizes(editor: Editor, written: frozenset[Node]) -> None:
    """Quantize before elements are moved, where that is all that is done to them: rounding commutes with it."""
    pending = editor.calls(QUANTIZE)
    while pending:
        node = pending.pop()
        qparams, source = quantize_of(node), node.args[0]
        if qparams is None or not isinstance(source, Node) or source in written or only_user(source) is not node:
            continue
        move = move_of(source)
        if move is None or any(operand in written for operand in move.operands):
            continue
        if move.shrinks and codes_of(move.operands[0]) is None:
            continue
        padding = move.padding_of(qparams)
        if padding is None:
            continue
        for operand in move.operands:
            known = [user for user in operand.users if user.target is QUANTIZE and user.args[1:] == node.args[1:]]
            if known:
                quantized = known[0]
            else:
                quantized = editor.call(editor.behind(operand), QUANTIZE, (operand, *node.args[1:]), operand)
                pending.append(quantized)
            source.replace_input_with(operand, quantized)
        move.take_codes(padding)
        editor.replace(node, source)


def _lower_dequantizes(editor: Editor, written: frozenset[Node]) -> None:
    """Move codes instead of what they stand for."""
    for node in list(editor.graph.nodes):
        move = move_of(node)
        if move is None or node in written:
            continue
        found = [codes_of(operand) for operand in move.operands]
        qparams = {None if codes is None else codes.qparams for codes in found}
        if any(codes is not None and codes.node.op == "get_attr" for codes in found):
            continue  # a weight, perhaps, which is found as it is
        if len(qparams) != 1 or None in qparams or any(operand in written for operand in move.operands):
            continue
        padding = move.padding_of(next(iter(qparams)))  # type: ignore[arg-type]
        if padding is None or not move.exact_padding(next(iter(qparams)), padding):  # type: ignore[arg-type]
            continue
        dequantize = move.operands[0]
        for operand in move.operands:
            node.replace_input_with(operand, operand.args[0])
        move.take_codes(padding)
        users = list(node.users)
        real = editor.call(node.next, DEQUANTIZE, (node, *dequantize.args[1:]), node)
        for user in users:
            user.replace_input_with(node, real)
    editor.graph.eliminate_dead_code()


def _cancel(editor: Editor) -> None:
    """Drop a quantize of what was dequantized by the same qparams; of a narrower range, codes are clamped."""
    for node in editor.calls(QUANTIZE):
        codes, qparams = codes_of(node.args[0]), quantize_of(node)
        if codes is None or qparams is None:
            continue
        found = codes.qparams
        if (found.scale, found.zero_point) != (qparams.scale, qparams.zero_point):
            continue
        result = codes.node
        if found.quant_min < qparams.quant_min or found.quant_max > qparams.quant_max:
            result = editor.call(node, _ATEN.clamp.default, (result, qparams.quant_min, qparams.quant_max), node)
        editor.replace(node, result)
