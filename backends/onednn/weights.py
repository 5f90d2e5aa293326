"""The weights and biases of gemms, as the kernels take them: int8 with one scale for each output, and float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from quantizer_sdk.backends.onednn.editing import DEQUANTIZE, Editor, call_of

__all__ = ["Weight", "bias_of", "weight_of"]

_ATEN = torch.ops.aten
_CHANNELS = torch.ops.quantized_decomposed.dequantize_per_channel.default
_TURNS = frozenset({_ATEN.t.default, _ATEN.transpose.int, _ATEN.permute.default, _ATEN.numpy_T.default})


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant of int8 codes.

    Attributes:
        node: Reads it from the module, the axis of outputs first.
        scale: Reads float32 scales, one an output.
        outputs: How many these are.
    """

    node: Node
    scale: Node
    outputs: int


def weight_of(editor: Editor, value: Any, *, transposed: bool = False) -> Weight | None:
    """Return a gemm's weight where it is a symmetric constant.

    Per-tensor scales are repeated, uint8 codes around 128 become int8: exact, both.

    Args:
        editor: Of the graph.
        value: The operand.
        transposed: Whether outputs are the last of its two axes.
    """
    value, turned = _turned(value)
    if not isinstance(value, Node) or value.target not in {DEQUANTIZE, _CHANNELS}:
        return None
    call = call_of(value)
    codes = editor.tensor(call["input"])
    if codes is None or call["out_dtype"] not in {None, torch.float32} or (turned and codes.dim() != 2):
        return None
    axis = 1 if turned != transposed else 0
    found = _qparams(editor, call, axis, codes.shape[axis])
    if found is None:
        return None
    scale, zero_point = found
    signed, node = codes, call["input"]
    if codes.dtype is torch.uint8:
        signed, zero_point, node = (codes.to(torch.int16) - 128).to(torch.int8), zero_point - 128, None
    if signed.dtype is not torch.int8 or bool(zero_point.any()):
        return None
    name = str(call["input"].target).replace(".", "_")
    if axis == 1:
        signed, node = signed.t(), None
    if not signed.is_contiguous():
        signed, node = signed.contiguous(), None
    if node is None:
        node = editor.constant(f"{name}_codes", signed)
    known = call.get("scales")
    stored = editor.tensor(known)
    if not isinstance(known, Node) or stored is None or stored.dtype is not torch.float32:
        known = editor.constant(f"{name}_scales", scale)
    return Weight(node, known, signed.shape[0])


def _turned(value: Any) -> tuple[Any, bool]:
    """Return what is behind a transposition, and whether there is one."""
    if not isinstance(value, Node) or value.target not in _TURNS:
        return value, False
    source = value.args[0]
    swaps = value.target in {_ATEN.t.default, _ATEN.numpy_T.default} or sorted(axis % 2 for axis in _axes(value)) == [
        0,
        1,
    ]
    straight = value.target is _ATEN.permute.default and [axis % 2 for axis in _axes(value)] == [0, 1]
    return (source, not straight) if swaps else (value, False)


def _axes(node: Node) -> list[int]:
    axes = node.args[1] if node.target is _ATEN.permute.default else node.args[1:3]
    return [axis for axis in axes if isinstance(axis, int)]  # type: ignore[union-attr]


def _qparams(editor: Editor, call: dict[str, Any], axis: int, outputs: int) -> tuple[Tensor, Tensor] | None:
    """Return a scale and a zero point for each output; None where they lie on another axis or are no constants."""
    if "axis" not in call:
        scale = torch.full((outputs,), float(call["scale"]), dtype=torch.float32)
        return scale, torch.full((outputs,), int(call["zero_point"]), dtype=torch.int64)
    scales, zero_points = editor.tensor(call["scales"]), editor.tensor(call["zero_points"])
    if scales is None or call["axis"] != axis or scales.shape != (outputs,):
        return None
    if zero_points is None:
        return None if isinstance(call["zero_points"], Node) else (scales.float(), torch.zeros(outputs))
    return scales.float(), zero_points


def bias_of(editor: Editor, value: Any, outputs: int) -> tuple[Node | None] | None:
    """Return the node of a float32 bias, or of none, in a tuple; None where the kernels cannot add it.

    An int32 bias becomes the float32 numbers that it stands for.
    """
    if value is None:
        return (None,)
    tensor = editor.tensor(value)
    if tensor is not None:
        fits = tensor.dtype is torch.float32 and tensor.shape == (outputs,)
        return (value,) if fits else None
    if not isinstance(value, Node) or value.target not in {DEQUANTIZE, _CHANNELS}:
        return None
    call = call_of(value)
    operands = [editor.tensor(call.get(name)) for name in ("input", "scales", "zero_points")]
    codes = operands[0]
    if codes is None or codes.shape != (outputs,) or ("axis" in call and operands[1] is None):
        return None
    scale = operands[1] if "axis" in call else torch.tensor(float(call["scale"]))
    zero_point = operands[2] if "axis" in call else torch.tensor(int(call["zero_point"]))
    steps = codes.double() if zero_point is None else codes.double() - zero_point
    assert scale is not None
    real = (steps * scale.double()).to(torch.float32)
    return (editor.constant(f"{str(call['input'].target).replace('.', '_')}_real", real),)
