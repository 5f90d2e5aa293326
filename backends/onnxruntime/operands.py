"""What a product reads: quantized activations and stored integer weights, seen through their dequantizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onnxruntime.blocks import token_codes
from quantizer_sdk.backends.onnxruntime.exported import arguments
from quantizer_sdk.backends.onnxruntime.qdq_nodes import DEQUANTIZE, QUANTIZE

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["Activation", "Weight", "activation_of", "bias_of", "gives_codes", "weight_of"]

qd = torch.ops.quantized_decomposed

_DEQUANTIZE_CHANNELS = qd.dequantize_per_channel.default
_SHIFT = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A quantized activation as integer kernels take it.

    Attributes:
        codes: uint8.
        scale: float32: a scalar, or [..., 1] for one each token.
        zero_point: uint8, a scalar.
        offset: int32 [..., 1]: what is to be taken off each code after `zero_point`; None for nothing.
        static: Whether the qparams are numbers in the graph.
        per_token: Whether each token has a scale.
    """

    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    offset: ir.Value | None = None
    static: bool = False
    per_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A stored weight of 8-bit integers.

    Attributes:
        codes: In the layout that it has in the graph.
        scale: float32: a scalar, or one for each output feature.
        zero_point: In the dtype of the codes, shaped as `scale`; None where all are 0.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None


def gives_codes(node: Node) -> bool:
    """Whether a node's results are all quantized, statically, so that quantize-dequantize nodes make a kernel of it."""
    return bool(node.users) and all(user.target is QUANTIZE for user in node.users)


def weight_of(call: Call, node: Any, axis: int) -> Weight | None:
    """Return the integers behind an operand whose output features lie along `axis`; None where it is no such weight."""
    if not isinstance(node, Node) or node.target not in {DEQUANTIZE, _DEQUANTIZE_CHANNELS}:
        return None
    named = arguments(node)
    codes = call.stored(named["input"])
    if codes is None or codes.dtype not in {torch.int8, torch.uint8}:
        return None
    if node.target is DEQUANTIZE:
        scale, zero = torch.tensor(named["scale"], dtype=torch.float32), torch.tensor(named["zero_point"])
    else:
        scales, zeros = call.stored(named["scales"]), call.stored(named["zero_points"])
        if scales is None or named["axis"] % codes.dim() != axis % codes.dim():
            return None
        if zeros is None and named["zero_points"] is not None:
            return None
        scale, zero = scales.to(torch.float32), torch.zeros_like(scales) if zeros is None else zeros
    return Weight(codes=codes, scale=scale, zero_point=zero.to(codes.dtype) if bool(zero.any()) else None)


def bias_of(call: Call, node: Any) -> ir.Value | None:
    """Return a bias as floats that are stored; None where there is none."""
    if node is None:
        return None
    if node.target in {DEQUANTIZE, _DEQUANTIZE_CHANNELS}:
        named = arguments(node)
        codes, scale = call.stored(named["input"]), named.get("scale", named.get("scales"))
        scale = torch.tensor(scale, dtype=torch.float32) if isinstance(scale, float) else call.stored(scale)
        if codes is not None and codes.dtype is torch.int32 and scale is not None:
            return call.constant("bias", codes.to(torch.float32) * scale.to(torch.float32))
    return call.value(node, torch.float32)


def activation_of(call: Call, node: Any) -> Activation | None:
    """Return the codes behind an operand that is computed at run time; None where it is float."""
    if not isinstance(node, Node) or node.op != "call_function":
        return None
    if node.target is qd.dequantize_per_token.default:
        return _token_activation(call, node)
    if node.target not in {DEQUANTIZE, qd.dequantize_per_tensor.tensor}:
        return None
    named = arguments(node)
    if named["dtype"] is not torch.uint8 or call.is_constant(named["input"]):
        return None
    return Activation(
        codes=call.value(named["input"]),
        scale=call.scalar(named["scale"], torch.float32),
        zero_point=call.scalar(named["zero_point"], torch.uint8),
        static=node.target is DEQUANTIZE,
    )


def _token_activation(call: Call, node: Node) -> Activation | None:
    """Return codes with the zero point in the middle, and each token's own as an offset."""
    named = arguments(node)
    source = named["input"]
    if source.target is not qd.quantize_per_token.default or named["dtype"] is not torch.int8:
        return None
    codes = call.cast(token_codes(call, arguments(source), _SHIFT), torch.uint8)
    symmetric = _is_second_of(named["zero_points"], qd.choose_qparams_per_token.default)
    return Activation(
        codes=codes,
        scale=call.value(named["scales"], torch.float32),
        zero_point=call.constant("zero_point", torch.tensor(_SHIFT, dtype=torch.uint8)),
        offset=None if symmetric else call.cast(call.value(named["zero_points"], torch.float32), torch.int32),
        per_token=True,
    )


def _is_second_of(node: Node, target: Any) -> bool:
    """Whether a node is the second result of a call of this op."""
    source = node.args[0] if node.args else None
    return isinstance(source, Node) and source.target is target and bool(node.args[1] == 1)
