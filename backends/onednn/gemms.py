"""Convolutions and linear layers between quantizes, each with what follows it, as one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onednn.activations import NONE, Activation, activation_of, clamp_ends
from quantizer_sdk.backends.onednn.conv_op import conv
from quantizer_sdk.backends.onednn.editing import Codes, Editor, QParams, call_of, codes_of, only_user, quantize_of
from quantizer_sdk.backends.onednn.linear_op import linear
from quantizer_sdk.backends.onednn.moves import PADS
from quantizer_sdk.backends.onednn.saturation import pairs_fit
from quantizer_sdk.backends.onednn.weights import Weight, bias_of, weight_of

__all__ = ["LINEARS", "Gemm", "Tail", "follow", "fuse_gemms", "gemm_of", "narrowed", "sums_fit"]

_ATEN = torch.ops.aten
_CONVS = {
    _ATEN.conv1d.default: 1,
    _ATEN.conv1d.padding: 1,
    _ATEN.conv2d.default: 2,
    _ATEN.conv2d.padding: 2,
    _ATEN.conv3d.default: 3,
    _ATEN.conv3d.padding: 3,
}
LINEARS = frozenset({_ATEN.linear.default, _ATEN.addmm.default, _ATEN.mm.default, _ATEN.matmul.default})
_ADDS = frozenset({_ATEN.add.Tensor})


@dataclass(frozen=True, slots=True)
class Gemm:
    """A call that multiplies by a constant weight.

    Attributes:
        node: The call.
        operand: The float tensor that it multiplies.
        weight: The weight.
        bias: The bias's node, if there is one.
        window: Stride, padding, dilation and groups; () for a linear layer.
    """

    node: Node
    operand: Any
    weight: Weight
    bias: Node | None
    window: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows a gemm and is computed with it.

    Attributes:
        last: The last call, whose result the op gives.
        other: A float tensor that is added.
        activation: What comes after that.
        ends: The numbers that the result is clamped to after all, by its codes.
        quantize: The one reader of the result, where that quantizes it.
    """

    last: Node
    other: Node | None
    activation: Activation
    ends: tuple[float, float] | None
    quantize: Node | None


def fuse_gemms(editor: Editor, *, saturating: bool) -> None:
    """Replace each convolution and linear layer whose activation is a dequantize by one op, with what follows it.

    Args:
        editor: Of the graph.
        saturating: Whether the kernels add products with loss, so that wide weights are left to float.
    """
    for node in editor.calls(*_CONVS, *LINEARS):
        gemm = gemm_of(editor, node)
        codes = None if gemm is None else codes_of(gemm.operand)
        if (
            gemm is not None
            and codes is not None
            and (not saturating or sums_fit(editor, gemm, codes.qparams.quant_max))
        ):
            _fuse(editor, gemm, codes)


def sums_fit(editor: Editor, gemm: Gemm, largest_code: int) -> bool:
    """Whether a CPU without VNNI adds the products without loss; see `pairs_fit`."""
    weight = editor.tensor(gemm.weight.node)
    assert weight is not None
    return pairs_fit(weight, largest_code)


def gemm_of(editor: Editor, node: Node) -> Gemm | None:
    """Return a call as a gemm; None where the kernels do not compute it."""
    call = call_of(node)
    if node.target in _CONVS:
        rank = _CONVS[node.target]
        window = _window(editor, call, rank)
        weight = None if window is None else weight_of(editor, call["weight"])
        operand, bias = call["input"], call["bias"]
    else:
        window = ()
        operand, weight, bias = _linear(editor, node, call)
    if window is None or weight is None:
        return None
    found = bias_of(editor, bias, weight.outputs)
    return None if found is None else Gemm(node, operand, weight, found[0], window)


def _linear(editor: Editor, node: Node, call: dict[str, Any]) -> tuple[Any, Weight | None, Any]:
    """Return operand, weight and bias of a linear layer in any of its forms."""
    if node.target is _ATEN.linear.default:
        return call["input"], weight_of(editor, call["weight"]), call["bias"]
    if node.target is _ATEN.addmm.default:
        plain = call["beta"] == 1 and call["alpha"] == 1
        return call["mat1"], weight_of(editor, call["mat2"], transposed=True) if plain else None, call["self"]
    right = call.get("mat2", call.get("other"))
    return call["self"], weight_of(editor, right, transposed=True), None


def _window(editor: Editor, call: dict[str, Any], rank: int) -> tuple[Any, ...] | None:
    """Return stride, padding, dilation and groups in numbers; None where padding is more on one side."""

    def whole(value: Any) -> list[int]:
        values = [value] if isinstance(value, int) else list(value)
        return values * rank if len(values) == 1 else values

    stride, dilation, padding = whole(call["stride"]), whole(call["dilation"]), call["padding"]
    if padding == "valid":
        padding = [0] * rank
    elif padding == "same":
        weight = call["weight"]
        codes = editor.tensor(weight.args[0]) if isinstance(weight, Node) and weight.args else None
        if codes is None or codes.dim() != rank + 2:
            return None
        reach = [d * (k - 1) for d, k in zip(dilation, codes.shape[2:], strict=True)]
        if any(total % 2 for total in reach):
            return None
        padding = [total // 2 for total in reach]
    return stride, whole(padding), dilation, call["groups"]


def follow(gemm: Gemm, *, to_codes: bool) -> Tail:
    """Return what follows a gemm and its kernel computes.

    Args:
        gemm: The gemm.
        to_codes: Whether its kernel may give codes.
    """
    last, other, activation = gemm.node, None, NONE
    linear = not gemm.window
    user = only_user(last)
    if user is not None and user.target in _ADDS and _adds(user):
        other = next(operand for operand in user.all_input_nodes if operand is not last)
        last = user
    user = only_user(last)
    found = None if user is None else activation_of(user, linear=linear)
    if user is not None and found is not None and (other is None or found.name == "relu"):
        last, activation = user, found
    if not to_codes or (not linear and other is not None and codes_of(other) is None):
        return Tail(last, other, activation, None, None)  # a convolution adds floats to floats only
    user, ends = only_user(last), None
    after = None if user is None else only_user(user)
    if user is not None and quantize_of(user) is None and quantize_of(after) is not None:
        ends = clamp_ends(user)
        last, user = (last, user) if ends is None else (user, after)
    return Tail(last, other, activation, ends, user if quantize_of(user) is not None else None)


def _adds(user: Node) -> bool:
    """Whether an addition is one of two float32 tensors of its shape."""
    operands = user.all_input_nodes
    if call_of(user)["alpha"] != 1 or len(operands) != 2:
        return False
    values = [node.meta.get("val") for node in (*operands, user)]
    tensors = [value for value in values if isinstance(value, torch.Tensor) and value.dtype is torch.float32]
    return len(tensors) == 3 and len({str(tuple(value.shape)) for value in tensors}) == 1


def _fuse(editor: Editor, gemm: Gemm, codes: Codes) -> None:
    tail = follow(gemm, to_codes=True)
    out = quantize_of(tail.quantize)
    out = out if out is None or tail.ends is None else _clamped(out, tail.ends)
    beside = None if tail.other is None else codes_of(tail.other)
    source, window = _own_padding(codes, gemm.window)
    x = (source, codes.qparams.scale, codes.qparams.zero_point)
    weight = (gemm.weight.node, gemm.weight.scale, gemm.bias)
    result = (1.0, 0, torch.float32) if out is None else (out.scale, out.zero_point, torch.uint8)
    post = (tail.activation.name, list(tail.activation.arguments))
    other: tuple[Any, ...] = (tail.other, 1.0, 0)
    if beside is not None:
        other = (beside.node, beside.qparams.scale, beside.qparams.zero_point)
    algorithm = () if gemm.window else (tail.activation.algorithm,)
    arguments = (*x, *weight, *window, *result, *post, *algorithm, *other)
    fused = editor.call(tail.last, conv if gemm.window else linear, arguments, tail.last)
    if out is None or tail.quantize is None:
        editor.replace(tail.last, fused)
        return
    editor.replace(tail.quantize, narrowed(editor, fused, tail.last, out))


def _own_padding(codes: Codes, window: tuple[Any, ...]) -> tuple[Node, tuple[Any, ...]]:
    """Let a convolution pad with zeros itself, where its operand was padded so, as much before as behind."""
    pad = codes.node
    if not window or pad.target not in PADS or not isinstance(pad.args[0], Node):
        return pad, window
    call = call_of(pad)
    stride, padding, *rest = window
    before, behind = list(call["pad"][::2])[::-1], list(call["pad"][1::2])[::-1]
    zeros = call["value"] == codes.qparams.zero_point and call.get("mode", "constant") == "constant"
    if not zeros or before != behind or len(before) > len(padding) or any(_is_open(size) for size in before):
        return pad, window
    before = [0] * (len(padding) - len(before)) + before
    return pad.args[0], (stride, [own + more for own, more in zip(padding, before, strict=True)], *rest)


def _is_open(size: Any) -> bool:
    return not isinstance(size, int) or size < 0


def _clamped(out: QParams, ends: tuple[float, float]) -> QParams:
    """Return the range of codes that a clamp leaves: the kernels round its ends as they round all results."""
    real = torch.tensor(ends) * (1 / torch.tensor(out.scale)) + float(out.zero_point)
    low, high = (int(code) for code in real.round().clamp(out.quant_min, out.quant_max))
    return QParams(out.scale, out.zero_point, min(low, high), high)


def narrowed(editor: Editor, codes: Node, before: Node, out: QParams) -> Node:
    """Clamp uint8 codes to their range, which no kernel does; return the node that holds them."""
    if (out.quant_min, out.quant_max) == (0, 255):
        return codes
    return editor.call(before, _ATEN.clamp.default, (codes, out.quant_min, out.quant_max), codes)
