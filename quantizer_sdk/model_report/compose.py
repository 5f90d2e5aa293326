"""From what `explain` and `compare` found to what the report says of each op, and of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torch.fx import GraphModule

from quantizer_sdk.debug import Comparison, LayerError
from quantizer_sdk.decibels import in_db
from quantizer_sdk.mixed import Sensitivity
from quantizer_sdk.model_report.advice import advice_of
from quantizer_sdk.model_report.content import Card, Content, Picture, Row
from quantizer_sdk.model_report.drawing import Cell, Kind, cells_of
from quantizer_sdk.model_report.flow import FlowNode, flow_of
from quantizer_sdk.model_report.lanes import lanes_of
from quantizer_sdk.report import STATES, Explanation, OpRecord
from quantizer_sdk.report.text import number, tensor_words

__all__ = ["content_of"]


def content_of(
    title: str,
    model: GraphModule,
    explanation: Explanation,
    comparison: Comparison | None = None,
    sensitivity: Sensitivity | None = None,
    *,
    cards: Sequence[Card] = (),
    pictures: Sequence[Picture] = (),
    facts: Mapping[str, str] | None = None,
) -> Content:
    """Put a report together.

    Args:
        title: The model's name.
        model: The converted model, whose graph is shown.
        explanation: Of the same model.
        comparison: Of the float model with it.
        sensitivity: What its outputs gain by each layer.
        cards: Figures of the summary beside those of the two.
        pictures: Plots.
        facts: How the model was made, in words.
    """
    flow = flow_of(model)
    records = {record.node: record for record in explanation.ops}
    errors = {} if comparison is None else {layer.node: layer for layer in comparison.layers}
    cells = cells_of(lanes_of(flow), _kinds(flow, records))
    rows = tuple(
        _row(node, records.get(node.name), errors.get(node.name), cell) for node, cell in zip(flow, cells, strict=True)
    )
    states = tuple(state for state in STATES if explanation.count(state))
    notes = (*explanation.notes, *(() if comparison is None else comparison.notes))
    return Content(
        title=title,
        cards=(*_cards(explanation, comparison), *cards),
        advice=advice_of(explanation, comparison, sensitivity),
        warnings=tuple(dict.fromkeys((*map(str, explanation.warnings), *notes))),
        coverage=_coverage(explanation.ops, states),
        states=states,
        rows=rows,
        pictures=tuple(pictures),
        facts=tuple((facts or {}).items()),
    )


def _kinds(flow: Sequence[FlowNode], records: Mapping[str, OpRecord]) -> list[Kind]:
    """Return what each row's result is."""
    codes = {edge.producer for row in flow for edge in row.edges if edge.quantized}
    kinds: list[Kind] = []
    for index, row in enumerate(flow):
        record = records.get(row.name)
        inside = record is not None and record.fused_into is not None
        kinds.append("codes" if index in codes else "inside" if inside else "float")
    return kinds


def _row(node: FlowNode, record: OpRecord | None, error: LayerError | None, cell: Cell) -> Row:
    state = node.op if node.op in {"input", "output"} else "control flow" if record is None else record.state
    return Row(
        name=node.name,
        op="" if node.op == state else node.op,
        state=state,
        cell=cell,
        summary=_summary(record),
        details=tuple((what, value) for what, value in _details(node, record, error) if value),
        sqnr=None if error is None else error.sqnr,
        own_sqnr=None if error is None else error.own_sqnr,
        blame=None if error is None else error.blame,
    )


def _summary(record: OpRecord | None) -> str:
    if record is None:
        return ""
    if record.reason and record.state == "float":
        return record.reason
    parts = [tensor_words(tensor) for tensor in record.tensors if tensor.role == "output"]
    return "; ".join((f"in the kernel of {record.fused_into}",) if record.fused_into else parts)


def _details(node: FlowNode, record: OpRecord | None, error: LayerError | None) -> list[tuple[str, str]]:
    details = [("module", node.module), ("line", node.source), ("shape", node.shape)]
    if record is not None:
        row = f"{record.row}, by {record.rule}" if record.row and record.rule else record.row or ""
        details += [("row", row), ("reason", record.reason or ""), ("what would change it", record.advice or "")]
        details += [(tensor.role, tensor_words(tensor).removeprefix(f"{tensor.role}: ")) for tensor in record.tensors]
        details.append(("parameters", number(record.parameters) if record.parameters else ""))
        details.append(("multiplications", number(record.macs) if record.macs else ""))
    if error is not None:
        own = "" if error.own_sqnr is None else f"{in_db(error.own_sqnr)} by itself, "
        largest = "" if error.max_error_lsb is None else f", largest error {error.max_error_lsb:.3g} steps"
        details.append(("noise", f"{own}{in_db(error.sqnr)} with all before it, cosine {error.cosine:.4f}{largest}"))
    return details


def _cards(explanation: Explanation, comparison: Comparison | None) -> list[Card]:
    cards = []
    for output in () if comparison is None else comparison.outputs:
        title = "SQNR of the output" if len(comparison.outputs) == 1 else f"SQNR of {output.name}"  # type: ignore[union-attr]
        cards.append(Card(title=title, value=in_db(output.sqnr), note=f"cosine {output.cosine:.4f}"))
    ops = [op for op in explanation.ops if op.state != "folded"]
    floats = explanation.count("float")
    cards.append(Card(title="Ops left float", value=f"{floats} of {len(ops)}", note="by number"))
    macs = {state: explanation.macs(state) for state in STATES}
    if total := sum(macs.values()):
        share = 100 * (total - macs["float"]) / total
        note = f"of {number(total)} multiplications{' in the example' if explanation.open_sizes else ''}"
        cards.append(Card(title="Work on integers", value=f"{share:.1f} %", note=note))
    return cards


def _coverage(ops: Sequence[OpRecord], states: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Count the ops of each kind by state, those with the most float ones first."""
    counts = Counter((op.op, op.state) for op in ops)
    kinds = dict.fromkeys(op.op for op in ops)
    order = sorted(kinds, key=lambda kind: (-counts[kind, "float"], -sum(counts[kind, state] for state in states)))
    return tuple((kind, tuple(counts[kind, state] for state in states)) for kind in order)
