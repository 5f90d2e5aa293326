"""Explain a model: what each op became, which row or annotation claimed it, and why the others were left float."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.control_flow import form_of, graphs_of
from quantizer_sdk.decision import decision_of
from quantizer_sdk.errors import NotExportedError
from quantizer_sdk.foreign import annotation_of
from quantizer_sdk.passes.fold_batch_norm import why_not_folded
from quantizer_sdk.provenance import module_path, op_name, source_line, value_of
from quantizer_sdk.qdq import is_dequantize, is_quantize
from quantizer_sdk.spec import QuantizationAnnotation, SharedQuantizationSpec

if TYPE_CHECKING:
    from quantizer_sdk.quantizer import QuantizerLike

__all__ = ["STATES", "Explanation", "OpRecord", "explain", "freeze_report"]

STATES = ("quantized", "shared", "folded", "float")
_REPORT_KEY = "quantizer_sdk_report"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRecord:
    """What became of one op of the user's model.

    Attributes:
        node: Its name in the graph; inside control flow after the graph's path, "true_graph_0/linear".
        op: Its overload, such as "aten.conv2d.default".
        state: "quantized" (with qparams of its own), "shared" (moves codes under its operand's qparams), "folded" (into
            the constants of another op), or "float".
        row: The table row, or "annotation" for a quantizer without a table; None for a float op.
        fused_into: The op at whose output the kernel that computes this one requantizes; None if its own.
        reason: Why it is float, or a remark.
        source: The user's line, "file:line: code"; "" if unknown.
        module: Path of the module it came from.
    """

    node: str
    op: str
    state: str
    row: str | None = None
    fused_into: str | None = None
    reason: str | None = None
    source: str = ""
    module: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All ops of a model, in graph order, and remarks on the whole.

    Attributes:
        ops: One record an op; calls that only handle sizes or take tuples apart are not ops.
        notes: Remarks, such as a configured rule that matched nothing.
    """

    ops: tuple[OpRecord, ...]
    notes: tuple[str, ...] = ()

    def count(self, state: str) -> int:
        """Return the number of ops in a state."""
        return sum(op.state == state for op in self.ops)

    def float_ops(self) -> tuple[OpRecord, ...]:
        """Return the ops left float."""
        return tuple(op for op in self.ops if op.state == "float")

    def to_dict(self) -> dict[str, Any]:
        """Return totals, notes and ops as plain data."""
        return {
            "totals": {state: self.count(state) for state in STATES},
            "notes": list(self.notes),
            "ops": [dataclasses.asdict(op) for op in self.ops],
        }

    def to_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        totals = ", ".join(f"{self.count(state)} {state}" for state in STATES)
        lines = [f"{len(self.ops)} ops: {totals}"]
        lines += [f"note: {note}" for note in self.notes]
        width = max((len(op.node) for op in self.ops), default=0)
        for op in self.ops:
            words = [op.row or "", f"in the kernel of {op.fused_into}" if op.fused_into else "", op.reason or ""]
            detail = ", ".join(word for word in words if word)
            lines.append(f"  {op.node:<{width}}  {op.state:<9}  {op.op}{': ' if detail else ''}{detail}")
            if op.state == "float" and op.source:
                lines.append(f"  {'':<{width}}  {'':<9}    at {op.source}")
        return "\n".join(lines)


def explain(model: GraphModule, quantizer: QuantizerLike | None = None) -> Explanation:
    """Say what each op of a model is, or would be, quantized as, and why not.

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
    frozen = model.meta.get(_REPORT_KEY)
    if isinstance(frozen, Explanation):
        return frozen
    records = (record for path, graph in graphs_of(model) for record in _records(graph, path))
    return Explanation(tuple(records), tuple(model.meta.get("quantizer_sdk_notes", ())))


def freeze_report(model: GraphModule) -> None:
    """Keep the explanation of an annotated graph on the model: the annotations themselves go when it is prepared."""
    model.meta[_REPORT_KEY] = explain(model)


def _records(model: GraphModule, path: str) -> Iterator[OpRecord]:
    for node in model.graph.nodes:
        if is_op(node):
            yield _record(node, path)
        for folded in decision_of(node).absorbed:
            yield OpRecord(
                node=_inside(path, folded.node),
                op=folded.op,
                state="folded",
                reason=f"{folded.how} {_inside(path, node.name)}",
                source=folded.source,
                module=folded.module,
            )


def _inside(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def is_op(node: Node) -> bool:
    """Whether a node is an op to account for: a call that computes a tensor.

    Control flow is where the engine does not enter it; else the ops inside are.
    """
    if node.op != "call_function" or is_quantize(node) or is_dequantize(node) or form_of(node) is not None:
        return False
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    value = value_of(node)
    return value is None or _holds_tensor(value)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_tensor(item) for item in value)
    return isinstance(value, torch.Tensor)


def _record(node: Node, path: str) -> OpRecord:
    annotation = annotation_of(node)
    decision = decision_of(node)
    state, row, reason = _judge(node, annotation)
    return OpRecord(
        node=_inside(path, node.name),
        op=op_name(node),
        state=state,
        row=row,
        fused_into=None if decision.fused_into is None else _inside(path, decision.fused_into),
        reason=reason,
        source=source_line(node),
        module=module_path(node),
    )


def _judge(node: Node, annotation: QuantizationAnnotation | None) -> tuple[str, str | None, str | None]:
    """Return (state, row, reason)."""
    decision = decision_of(node)
    if decision.row is not None:
        return ("shared" if decision.shares else "quantized"), decision.row, decision.reason
    if annotation is not None:
        output = annotation.output_qspec
        specs = [spec for spec in (*annotation.input_qspec_map.values(), output) if spec is not None]
        if specs:
            shared = isinstance(output, SharedQuantizationSpec)
            return ("shared" if shared else "quantized"), "annotation", decision.reason
        if annotation._annotated:
            return "quantized", "annotation", "the quantizer marked it as part of a fused pattern"
    if _between_qdq(node):
        return "quantized", "q/dq", None
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return "float", None, f"the engine does not quantize inside {node.target}, which has no plain form here"
    if node.target is torch.ops.aten.batch_norm.default and (why := why_not_folded(node)):
        return "float", None, why
    return "float", None, decision.reason or "the quantizer left no annotation on it"


def _between_qdq(node: Node) -> bool:
    """Whether a converted graph, which kept no other record, shows the op to be quantized.

    That is: its result is, or its weight. An op that reads dequantized activations and yields a float is a float op.
    """
    dequantized = [operand for operand in node.all_input_nodes if is_dequantize(operand)]
    weights = any(operand.all_input_nodes[0].op == "get_attr" for operand in dequantized)
    return weights or (bool(dequantized) and bool(node.users) and all(is_quantize(user) for user in node.users))
