"""Explain a model at any stage, and keep on it what its preparation knew."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch.fx import GraphModule, Node

from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.decision import RECORD_KEY, decision_of
from quantizer_sdk.errors import NotExportedError
from quantizer_sdk.foreign import annotation_of
from quantizer_sdk.provenance import module_path, name_in, op_name, source_line
from quantizer_sdk.qdq import is_dequantize
from quantizer_sdk.report.costs import Costs
from quantizer_sdk.report.explanation import Explanation
from quantizer_sdk.report.held_tensors import HeldTensors
from quantizer_sdk.report.live import Live
from quantizer_sdk.report.ops import is_op
from quantizer_sdk.report.records import Finding, OpRecord
from quantizer_sdk.report.saved import restore_report, restore_seen, save_report
from quantizer_sdk.report.states import States

if TYPE_CHECKING:
    from quantizer_sdk.quantizer import QuantizerLike

__all__ = ["explain", "freeze_report", "take_report_along"]

_REPORT_KEY = "quantizer_sdk_report"
_NOTES_KEY = "quantizer_sdk_notes"

_NO_RECORD = Finding(
    kind="no_record",
    node="",
    message="the model holds q/dq ops, and no record of how it was prepared: it was made elsewhere, or an older "
    "version saved it. States are read off its q/dq ops; rows, rules, reasons, folded ops and what calibration "
    "saw are lost",
    advice="explain the result of convert_pt2e itself",
)


def explain(model: GraphModule, quantizer: QuantizerLike | None = None) -> Explanation:
    """Say what each op of a model is, or would be, quantized as, over which ranges, and why not.

    Costs O(nodes), and one look at the weights that have no observer of their channels.

    Args:
        model: An exported model together with `quantizer`, or a prepared or converted one.
        quantizer: Says what would be quantized; the model itself stays as it is and needs no data.

    Raises:
        NotExportedError: The model is no graph module.
        NotAQuantizerError: The quantizer cannot annotate.
    """
    if not isinstance(model, GraphModule):
        message = f"explain was given a {type(model).__name__}; pass an exported, prepared or converted graph module"
        raise NotExportedError(message)
    if quantizer is not None:
        from quantizer_sdk.quantize_pt2e import annotate

        return explain(annotate(model, quantizer))
    held = HeldTensors(model)
    known = _known(model)
    decided = _decisions(model, held) if known is None else known
    live = Live(model, held)
    ops = tuple(
        dataclasses.replace(op, tensors=live.tensors[op.node, op.op])
        if op.state != "float" and (op.node, op.op) in live.tensors
        else op
        for op in decided.ops
    )
    findings = [*decided.warnings, *live.findings]
    if live.unseen:
        findings.append(_unseen(live))
    if known is None and live.tensors and any(is_dequantize(n) for _p, g in graphs_of(model) for n in g.graph.nodes):
        findings.append(_NO_RECORD)
    return Explanation(ops, decided.notes, tuple(findings))


def freeze_report(model: GraphModule) -> Explanation:
    """Keep the explanation of an annotated graph on the model: the annotations themselves go when it is prepared.

    Returns:
        The explanation, without tensors.
    """
    report = _decisions(model, HeldTensors(model), mark=True)
    model.meta[_REPORT_KEY] = report
    return report


def take_report_along(model: GraphModule) -> None:
    """Let a converted model keep its report when it is exported and saved."""
    report = model.meta.get(_REPORT_KEY)
    if isinstance(report, Explanation):
        save_report(model, report)


def _known(model: GraphModule) -> Explanation | None:
    """Return the report that a model has kept since it was prepared, if it has one."""
    frozen = model.meta.get(_REPORT_KEY)
    known = frozen if isinstance(frozen, Explanation) else restore_report(model)
    restore_seen(model)
    return known


def _unseen(live: Live) -> Finding:
    return Finding(
        kind="uncalibrated",
        node="",
        message=f"{live.unseen} of {live.points} quantized points have seen no data, so their ranges are not known",
        advice="run the prepared model on calibration data; weights are looked at when it is converted",
    )


def _decisions(model: GraphModule, held: HeldTensors, *, mark: bool = False) -> Explanation:
    """Return what became of each op, read off the graph.

    Args:
        model: A graph of any stage.
        held: Its constants.
        mark: Whether each op is told the name by which the report knows it.
    """
    graphs = list(graphs_of(model))
    annotated = any(annotation_of(node) is not None for _path, graph in graphs for node in graph.graph.nodes)
    costs = Costs(held)
    records = [
        record for path, graph in graphs for record in _records(graph, path, costs, annotated=annotated, mark=mark)
    ]
    notes = tuple(model.meta.get(_NOTES_KEY, ()))
    return Explanation(
        tuple(records), notes, tuple(Finding(kind="unused_rule", node="", message=note) for note in notes)
    )


def _records(model: GraphModule, path: str, costs: Costs, *, annotated: bool, mark: bool) -> Iterator[OpRecord]:
    states = States(model, annotated=annotated)
    costs.enter(model)
    for node in model.graph.nodes:
        if is_op(node):
            name = name_in(path, node.name)
            if mark:
                node.meta[RECORD_KEY] = name
            yield _record(node, name, path, states, costs)
        for folded in decision_of(node).absorbed:
            yield OpRecord(
                node=name_in(path, folded.node),
                op=folded.op,
                state="folded",
                reason=f"{folded.how} {name_in(path, node.name)}",
                source=folded.source,
                module=folded.module,
            )


def _record(node: Node, name: str, path: str, states: States, costs: Costs) -> OpRecord:
    fused_into, macs = decision_of(node).fused_into, costs.macs_of(node)
    return OpRecord(
        node=name,
        op=op_name(node),
        fused_into=None if fused_into is None else name_in(path, fused_into),
        source=source_line(node),
        module=module_path(node),
        parameters=costs.parameters_of(node),
        macs=None if macs is None else macs.count,
        open_sizes=macs is not None and macs.open_sizes,
        **states.fields_of(node),
    )
