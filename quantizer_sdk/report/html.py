"""An explanation as one HTML file that needs nothing else: no server, no network, no second file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantizer_sdk.report.records import STATES, OpRecord, TensorRecord
from quantizer_sdk.report.text import number, tensor_words, totals_words
from quantizer_sdk.templating import asset, fill, page_style, script_hash

if TYPE_CHECKING:
    from quantizer_sdk.report.explanation import Explanation

__all__ = ["to_html"]

_PACKAGE = "quantizer_sdk.report"

_MEANINGS = {
    "quantized": "has qparams of its own",
    "shared": "moves codes under the qparams of its operand",
    "passthrough": "only moves values between quantized points; nobody claimed it, and it loses nothing",
    "folded": "is gone into the constants of another op",
    "float": "computes in float",
}


@dataclass(frozen=True, slots=True)
class _Share:
    """How much of a total is in one state: its name, the amount in words, and the share in percent."""

    state: str
    words: str
    percent: float


def to_html(explanation: Explanation, title: str) -> str:
    """Return the page: totals, warnings, and a table of all ops that can be searched, filtered and sorted.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    script = asset(_PACKAGE, "explain.js")
    context = {
        "title": title,
        "explanation": explanation,
        "script": script,
        "script_hash": script_hash(script),
        "style": page_style() + asset(_PACKAGE, "explain.css"),
        "states": {state: explanation.count(state) for state in STATES if explanation.count(state)},
        "meanings": _MEANINGS,
        "bars": _bars(explanation),
        "words": totals_words(explanation),
        "kinds": _kinds(explanation),
    }
    filters: dict[str, Callable[..., object]] = {
        "number": number,
        "tensor": tensor_words,
        "clipped": _clipped,
        "step": _step,
        "reach": _reach,
    }
    return fill(_PACKAGE, "explain.html.j2", context, filters)


def _bars(explanation: Explanation) -> list[tuple[str, list[_Share]]]:
    """Return, for ops, parameters and multiplications, the share of each state."""
    totals: list[tuple[str, Callable[[str], int]]] = [
        ("ops", explanation.count),
        ("parameters", explanation.parameters),
        ("MACs", explanation.macs),
    ]
    bars = []
    for name, total in totals:
        amounts = {state: total(state) for state in STATES}
        whole = sum(amounts.values())
        shares = [_Share(state, number(part), 100 * part / whole) for state, part in amounts.items() if part]
        if shares:
            bars.append((name, shares))
    return bars


def _kinds(explanation: Explanation) -> list[tuple[str, list[str]]]:
    """Return the messages of each kind of warning, in the order in which the kinds come up."""
    kinds: dict[str, list[str]] = {}
    for finding in explanation.warnings:
        kinds.setdefault(finding.kind.replace("_", " "), []).append(str(finding))
    return list(kinds.items())


def _result(op: OpRecord) -> TensorRecord | None:
    """Return the tensor that the table shows of an op: its result, or else the first activation that it reads."""
    activations = [tensor for tensor in op.tensors if tensor.role not in {"weight", "bias"}]
    return next((tensor for tensor in activations if tensor.role == "output"), next(iter(activations), None))


def _clipped(op: OpRecord) -> float | None:
    """Return the largest share of clipped values of an op's tensors."""
    return max((tensor.clipped for tensor in op.tensors if tensor.clipped is not None), default=None)


def _step(op: OpRecord) -> float | None:
    tensor = _result(op)
    return None if tensor is None or tensor.scale is None else tensor.scale[1]


def _reach(op: OpRecord) -> str:
    tensor = _result(op)
    span = None if tensor is None else tensor.range or tensor.calibrated
    return "" if span is None else f"{span[0]:.4g} … {span[1]:.4g}"
