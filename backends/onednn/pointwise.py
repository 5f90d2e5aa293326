"""What lies between a dequantize and a quantize and is no gemm, as ops on codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onednn.activations import clamp_ends
from quantizer_sdk.backends.onednn.conversion_ops import dequantize, dequantize_channels, look_up, quantize
from quantizer_sdk.backends.onednn.editing import Codes, Editor, QParams, call_of, codes_of, only_user, quantize_of
from quantizer_sdk.backends.onednn.elementwise_ops import add, mul
from quantizer_sdk.backends.onednn.window_ops import mean

__all__ = ["convert_the_rest", "fuse_functions", "fuse_means", "fuse_sums_and_products"]

_ATEN = torch.ops.aten
_BINARY = {_ATEN.add.Tensor: add, _ATEN.mul.Tensor: mul}
_POOLS = frozenset({_ATEN.adaptive_avg_pool1d.default, _ATEN.adaptive_avg_pool2d.default})
_FUNCTIONS = frozenset(
    {
        *(_ATEN.relu.default, _ATEN.relu6.default, _ATEN.hardtanh.default, _ATEN.clamp.default),
        *(_ATEN.clamp_min.default, _ATEN.clamp_max.default, _ATEN.hardswish.default, _ATEN.hardsigmoid.default),
        *(_ATEN.silu.default, _ATEN.gelu.default, _ATEN.leaky_relu.default, _ATEN.elu.default, _ATEN.mish.default),
        *(_ATEN.tanh.default, _ATEN.sigmoid.default, _ATEN.softplus.default, _ATEN.exp.default, _ATEN.abs.default),
        *(_ATEN.neg.default, _ATEN.sqrt.default, _ATEN.square.default, _ATEN.selu.default, _ATEN.celu.default),
        *(_ATEN.add.Tensor, _ATEN.sub.Tensor, _ATEN.mul.Tensor, _ATEN.div.Tensor, _ATEN.rsub.Scalar),
        *(_ATEN.add.Scalar, _ATEN.sub.Scalar, _ATEN.mul.Scalar, _ATEN.div.Scalar, _ATEN.pow.Tensor_Scalar),
    }
)


def fuse_sums_and_products(editor: Editor) -> None:
    """Add and multiply codes where both operands are dequantizes, and the result is quantized."""
    for node in editor.calls(*_BINARY):
        call = call_of(node)
        operands = [codes_of(call["self"]), codes_of(call["other"])]
        tail = _rectified(node)
        last = only_user(tail)
        out = quantize_of(last)
        if None in operands or out is None or last is None or call.get("alpha", 1) != 1:
            continue
        low, high = _range(node, tail, out)
        parts = [part for codes in operands for part in _parts(codes)]
        relu = tail is not node and clamp_ends(tail) == (0.0, math.inf)
        target = _BINARY[node.target]  # type: ignore[index]
        codes = editor.call(last, target, (*parts, out.scale, out.zero_point, relu), node)
        if (low, high) != (0, 255) and not (relu and (low, high) == (out.zero_point, 255)):
            codes = editor.call(last, _ATEN.clamp.default, (codes, low, high), node)
        editor.replace(last, codes)


def _parts(codes: Codes | None) -> tuple[Any, ...]:
    assert codes is not None
    return (codes.node, codes.qparams.scale, codes.qparams.zero_point)


def _rectified(node: Node) -> Node:
    """Return the clamp that alone reads a node, or the node."""
    user = only_user(node)
    return user if user is not None and clamp_ends(user) is not None else node


def _range(node: Node, tail: Node, out: QParams) -> tuple[int, int]:
    """Return the range of codes that a quantize and a clamp before it leave: rounding commutes with clamps."""
    low, high = out.quant_min, out.quant_max
    ends = None if tail is node else clamp_ends(tail)
    if ends is not None:
        arguments = (out.scale, out.zero_point, low, high, torch.uint8)
        bounds = torch.ops.quantized_decomposed.quantize_per_tensor.default(torch.tensor(ends), *arguments)
        low, high = min(int(bounds[0]), int(bounds[1])), int(bounds[1])
    return low, high


def fuse_functions(editor: Editor) -> None:
    """Replace elementwise functions of a dequantize, up to a quantize, by a table of the codes that they give."""
    for last in editor.calls(torch.ops.quantized_decomposed.quantize_per_tensor.default):
        chain, codes = _chain(last)
        if codes is None:
            continue
        every = torch.arange(256, dtype=torch.uint8)
        real = dequantize(every, codes.qparams.scale, codes.qparams.zero_point)
        for node in chain:
            real = node.target(*_with(node.args, real), **_with_names(node.kwargs, real))  # type: ignore[operator]
        out = quantize_of(last)
        assert out is not None
        table = quantize(real, out.scale, out.zero_point, out.quant_min, out.quant_max)
        stored = editor.constant("table", table)
        editor.replace(last, editor.call(last, look_up, (codes.node, stored), last))


def _chain(last: Node) -> tuple[list[Node], Codes | None]:
    """Return the functions between a dequantize and a quantize, in order, and what they are of."""
    chain: list[Node] = []
    source = last.args[0]
    if quantize_of(last) is None:
        return chain, None
    while isinstance(source, Node) and codes_of(source) is None:
        tensors = set(source.all_input_nodes)
        if source.target not in _FUNCTIONS or len(tensors) != 1 or only_user(source) is None:
            return chain, None
        chain.insert(0, source)
        source = next(iter(tensors))
    return chain, codes_of(source)


def _with(arguments: Sequence[Any], real: torch.Tensor) -> list[Any]:
    return [real if isinstance(argument, Node) else argument for argument in arguments]


def _with_names(keywords: dict[str, Any], real: torch.Tensor) -> dict[str, Any]:
    return {name: real if isinstance(argument, Node) else argument for name, argument in keywords.items()}


def fuse_means(editor: Editor) -> None:
    """Take means over whole axes on codes, where the operand is a dequantize and the result is quantized."""
    for node in editor.calls(_ATEN.mean.dim, *_POOLS):
        call = call_of(node)
        last = only_user(node)
        codes, out = codes_of(call["self"]), quantize_of(last)
        if codes is None or out is None or last is None:
            continue
        axes: Any
        if node.target is _ATEN.mean.dim:
            axes, keepdim = call["dim"], call["keepdim"]
            if not axes or call["dtype"] not in {None, torch.float32}:
                continue
        else:
            sizes = call["output_size"]
            axes, keepdim = list(range(-len(sizes), 0)), True
            if any(size != 1 for size in sizes):
                continue
        result = editor.call(last, mean, (*_parts(codes), list(axes), keepdim, out.scale, out.zero_point), node)
        if (out.quant_min, out.quant_max) != (0, 255):
            result = editor.call(last, _ATEN.clamp.default, (result, out.quant_min, out.quant_max), node)
        editor.replace(last, result)


def convert_the_rest(editor: Editor) -> None:
    """Let the quantizes and dequantizes that are left run in fewer passes over memory."""
    reference = torch.ops.quantized_decomposed
    for node in editor.calls(reference.quantize_per_tensor.default):
        out = quantize_of(node)
        if out is not None:
            arguments = (node.args[0], out.scale, out.zero_point, out.quant_min, out.quant_max)
            editor.replace(node, editor.call(node, quantize, arguments, node))
    for node in editor.calls(reference.dequantize_per_channel.default):
        call = call_of(node)
        zero_points = editor.tensor(call["zero_points"])
        plain = (
            zero_points is None if call["zero_points"] is None else zero_points is not None and not zero_points.any()
        )
        if plain and call["out_dtype"] in {None, torch.float32} and node.users:
            # Each where it is needed: a weight is four times as large in float.
            operands = (call["input"], call["scales"], call["axis"])
            for user in list(node.users):
                where = user if user.op != "output" else node
                user.replace_input_with(node, editor.call(where, dequantize_channels, operands, node))
            editor.erase(node)
    for node in editor.calls(reference.dequantize_per_tensor.default):
        codes = codes_of(node)
        if codes is not None:
            editor.replace(node, editor.call(node, dequantize, _parts(codes), node))
