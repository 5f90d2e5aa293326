"""An explanation as plain text: totals, warnings, and two or more lines for each op."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quantizer_sdk.report.records import STATES, OpRecord, TensorRecord

if TYPE_CHECKING:
    from quantizer_sdk.report.explanation import Explanation

__all__ = ["number", "tensor_words", "to_text", "totals_words"]

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def to_text(explanation: Explanation) -> str:
    """Return the text: totals, notes, warnings, then the ops in graph order."""
    ops = explanation.ops
    totals = ", ".join(f"{explanation.count(state)} {state}" for state in STATES)
    lines = [f"{len(ops)} ops: {totals}", *totals_words(explanation)]
    lines += [f"note: {note}" for note in explanation.notes]
    lines += [f"warning: {each}" for each in explanation.warnings if each.message not in explanation.notes]
    width = max((len(op.node) for op in ops), default=0)
    for op in ops:
        lines.append(f"  {op.node:<{width}}  {op.state:<11}  {_line(op)}")
        lines += [f"  {'':<{width}}  {'':<11}    {more}" for more in _more(op)]
    return "\n".join(lines)


def totals_words(explanation: Explanation) -> list[str]:
    """Return the shares of parameters and multiplications that are quantized, in words."""
    lines = []
    for name, total in (("parameters", explanation.parameters), ("multiplications (MACs)", explanation.macs)):
        amounts = {state: total(state) for state in STATES}
        whole = sum(amounts.values())
        if whole:
            claimed = whole - amounts["float"] - amounts["passthrough"]
            example = ", with open sizes as in the example" if "MACs" in name and explanation.open_sizes else ""
            lines.append(f"{number(whole)} {name}: {claimed / whole:.1%} quantized{example}")
    return lines


def number(amount: float) -> str:
    """Return a count in a few characters: 1234567 is "1.23 M"."""
    for unit, letter in _UNITS:
        if amount >= unit:
            return f"{amount / unit:.3g} {letter}"
    return f"{amount:g}"


def _line(op: OpRecord) -> str:
    rule = op.rule if op.rule is not None and "all ops" not in op.rule else None
    words = [
        op.row or "",
        f"in the kernel of {op.fused_into}" if op.fused_into else "",
        f"by {rule}" if rule else "",
        op.reason or "",
    ]
    detail = ", ".join(word for word in words if word)
    return f"{op.op}{': ' if detail else ''}{detail}"


def _more(op: OpRecord) -> Iterator[str]:
    for tensor in op.tensors:
        if tensor.role != "bias" and (tensor.dynamic or tensor.scale is not None or tensor.calibrated is not None):
            yield tensor_words(tensor)
    if op.state == "float" and op.advice:
        yield f"to change that: {op.advice}"
    elif op.advice:
        yield op.advice
    if op.state == "float" and op.source:
        yield f"at {op.source}"


def tensor_words(tensor: TensorRecord) -> str:
    """Return what is known of a tensor on one line."""
    words = [f"{tensor.role}: {tensor.dtype} {tensor.granularity}"]
    if tensor.dynamic:
        return f"{words[0]}, scales computed in each run"
    if tensor.scale is not None and tensor.zero_point is not None:
        words.append(f"scale {_pair(tensor.scale)} zero {_pair(tensor.zero_point)}")
    if tensor.range is not None:
        words.append(f"holds {_interval(tensor.range)}")
    if tensor.calibrated is not None:
        words.append(f"saw {_interval(tensor.calibrated)}")
    if tensor.clipped is not None:
        words.append(f"{tensor.clipped:.2%} clipped")
    return ", ".join(words)


def _pair(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4g}" if pair[0] == pair[1] else f"{pair[0]:.4g}..{pair[1]:.4g}"


def _interval(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4g}..{pair[1]:.4g}"
