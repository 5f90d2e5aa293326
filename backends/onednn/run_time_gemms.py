"""Linear layers that quantize their activation at run time, as an op for the codes and one for the product."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onednn.editing import Editor, call_of
from quantizer_sdk.backends.onednn.gemms import LINEARS, Gemm, follow, gemm_of, sums_fit
from quantizer_sdk.backends.onednn.run_time_ops import linear_at_run_time, quantize_at_run_time

__all__ = ["fuse_run_time_gemms"]

_OPS = torch.ops.quantized_decomposed
_ATEN = torch.ops.aten
_MIDDLE = 128
_SMALLEST = torch.finfo(torch.float32).eps  # of choose_qparams_per_token_asymmetric


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How a tensor is quantized at run time.

    Attributes:
        source: The float tensor.
        rows: Whether each row has qparams of its own.
        quant_min: The smallest uint8 code.
        quant_max: The largest uint8 code.
        eps: The smallest scale.
    """

    source: Node
    rows: bool
    quant_min: int
    quant_max: int
    eps: float


def fuse_run_time_gemms(editor: Editor, *, saturating: bool) -> None:
    """Replace each linear layer whose activation is quantized at run time by ops on its codes.

    Args:
        editor: Of the graph.
        saturating: As for `fuse_gemms`.
    """
    known: dict[_Scheme, tuple[Node, Node, Node]] = {}
    for node in editor.calls(*LINEARS):
        gemm = gemm_of(editor, node)
        scheme = None if gemm is None else _scheme(gemm.operand)
        if gemm is None or scheme is None or (saturating and not sums_fit(editor, gemm, scheme.quant_max)):
            continue
        if scheme not in known:
            dequantize: Node = gemm.operand
            whole = editor.call(dequantize, quantize_at_run_time, _arguments(scheme))
            codes, scale, zero_point = (editor.call(dequantize, operator.getitem, (whole, i)) for i in range(3))
            known[scheme] = (codes, scale, zero_point)
        _replace(editor, gemm, scheme, known[scheme])


def _arguments(scheme: _Scheme) -> tuple[Any, ...]:
    return (scheme.source, scheme.rows, scheme.quant_min, scheme.quant_max, scheme.eps)


def _replace(editor: Editor, gemm: Gemm, scheme: _Scheme, quantized: tuple[Node, Node, Node]) -> None:
    operands = (*quantized, gemm.weight.node, gemm.weight.scale, gemm.bias)
    if scheme.rows:
        editor.replace(
            gemm.node, editor.call(gemm.node, linear_at_run_time, (*operands, "none", [], "", None), gemm.node)
        )
        return
    tail = follow(gemm, to_codes=False)
    post = (tail.activation.name, list(tail.activation.arguments), tail.activation.algorithm, tail.other)
    editor.replace(tail.last, editor.call(tail.last, linear_at_run_time, (*operands, *post), tail.last))


def _scheme(value: Any) -> _Scheme | None:
    """Return how a dequantized tensor was quantized at run time, where it was."""
    if not isinstance(value, Node):
        return None
    if value.target is _OPS.dequantize_per_tensor.tensor:
        return _of_tensor(value)
    if value.target is _OPS.dequantize_per_token.default:
        return _of_rows(value)
    return None


def _of_tensor(dequantize: Node) -> _Scheme | None:
    quantize = dequantize.args[0]
    if not isinstance(quantize, Node) or quantize.target is not _OPS.quantize_per_tensor.tensor:
        return None
    source, scale, zero_point, *ends, dtype = quantize.args
    if dequantize.args[1:] != quantize.args[1:] or dequantize.kwargs.get("out_dtype") is not None:
        return None
    offset = 0
    if isinstance(zero_point, Node) and zero_point.target is _ATEN.add.Scalar:  # of int8, made unsigned
        zero_point, offset = zero_point.args[:2]  # type: ignore[assignment]
    chosen = _chosen(scale, zero_point)
    if chosen is None or chosen.target is not _OPS.choose_qparams.tensor or dtype is not torch.uint8:
        return None
    call = call_of(chosen)
    low, high = (int(call[name]) + offset for name in ("quant_min", "quant_max"))
    if not isinstance(source, Node) or call["input"] is not source or ends != [low, high]:
        return None
    return _Scheme(source, rows=False, quant_min=low, quant_max=high, eps=float(call["eps"]))


def _of_rows(dequantize: Node) -> _Scheme | None:
    quantize = dequantize.args[0]
    if not isinstance(quantize, Node) or quantize.target is not _OPS.quantize_per_token.default:
        return None
    source, scale, zero_point, quant_min, quant_max, dtype = quantize.args
    chosen = _chosen(scale, zero_point)
    if dequantize.args[1:6] != quantize.args[1:] or call_of(dequantize)["output_dtype"] is not torch.float32:
        return None
    if chosen is None or chosen.target is not _OPS.choose_qparams_per_token_asymmetric.default:
        return None
    if chosen.args[0] is not source or (quant_min, quant_max, dtype) != (-_MIDDLE, _MIDDLE - 1, torch.int8):
        return None
    assert isinstance(source, Node)
    return _Scheme(source, rows=True, quant_min=0, quant_max=255, eps=_SMALLEST)


def _chosen(scale: Any, zero_point: Any) -> Node | None:
    """Return the call that both qparams are results of."""
    both = [node for node in (scale, zero_point) if isinstance(node, Node) and node.target is operator.getitem]
    if len(both) != 2 or both[0].args[0] is not both[1].args[0] or (both[0].args[1], both[1].args[1]) != (0, 1):
        return None
    source = both[0].args[0]
    return source if isinstance(source, Node) else None
