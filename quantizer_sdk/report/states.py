"""The state of each op of one graph, read off annotations, decisions, observers and q/dq: which there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import constant_nodes
from quantizer_sdk.decision import decision_of
from quantizer_sdk.foreign import annotation_of
from quantizer_sdk.observers.create import is_observer_call
from quantizer_sdk.passes.fold_batch_norm import why_not_folded
from quantizer_sdk.passes.insert_observers import moves
from quantizer_sdk.provenance import value_of
from quantizer_sdk.qdq import is_dequantize, is_quantize
from quantizer_sdk.refusal import ADVICE, CONTROL_FLOW, DTYPE, NO_ROW, NOT_ANNOTATED, UNPREPARED, Refusal
from quantizer_sdk.report.ops import is_op
from quantizer_sdk.spec import QuantizationAnnotation, SharedQuantizationSpec

__all__ = ["States"]

_ATEN = torch.ops.aten
_EXACT = "it only moves values, so accuracy gains nothing; to have it move codes, "


class States:
    """The states of the ops of one graph.

    Args:
        model: A graph of any stage.
        annotated: Whether the model has annotations, observers or q/dq at all, in this graph or another.
    """

    def __init__(self, model: GraphModule, *, annotated: bool) -> None:
        self._annotated = annotated
        self._modules: Mapping[str, nn.Module] = dict(model.named_modules())
        self._annotation: dict[Node, QuantizationAnnotation] = {}
        for node in model.graph.nodes:
            if (annotation := annotation_of(node)) is not None:
                self._annotation[node] = annotation
        self._constant = constant_nodes(model.graph)
        self._passing = self._find_passing(model)
        self._between = set() if annotated else self._find_between(model)

    def fields_of(self, node: Node) -> dict[str, Any]:
        """Return the fields of an op's record that say what became of it: state, row, rule, reason, cause, advice."""
        decision = decision_of(node)
        claim = self._claim(node)
        if claim is not None:
            state, row, remark = claim
            return {"state": state, "row": row, "rule": decision.rule, "reason": remark, "advice": decision.advice}
        why = self._reason(node)
        if node in self._passing:
            return {"state": "passthrough", "reason": str(why), "cause": why.cause, "advice": _EXACT + why.advice}
        return {"state": "float", "reason": str(why), "cause": why.cause, "advice": why.advice}

    def _claim(self, node: Node) -> tuple[str, str, str | None] | None:
        """Return (state, row, remark) of an op that something claims."""
        decision, annotation = decision_of(node), self._annotation.get(node)
        if decision.row is not None:
            return ("shared" if decision.shares else "quantized"), decision.row, decision.reason
        if annotation is not None:
            output = annotation.output_qspec
            if any(spec is not None for spec in (*annotation.input_qspec_map.values(), output)):
                shared = isinstance(output, SharedQuantizationSpec)
                return ("shared" if shared else "quantized"), "annotation", decision.reason
            if annotation._annotated:
                return "quantized", "annotation", "the quantizer marked it as part of a fused pattern"
        if node in self._between:
            return "quantized", "q/dq", None
        return None

    def _find_between(self, model: GraphModule) -> set[Node]:
        """Return the ops that a graph which kept no other record shows to be quantized.

        That is: its result is, or its weight; or all that it reads is the result of such an op, which nothing else
        reads, and its own is quantized: they are one kernel. An op that reads dequantized activations and yields a
        float is a float op.
        """
        found: set[Node] = set()
        for node in model.graph.nodes:
            if node in self._passing or node in self._constant or not is_op(node):
                continue
            operands = [operand for operand in node.all_input_nodes if operand not in self._constant]
            coded = [operand for operand in operands if self._yields_codes(operand)]
            weights = any(self._is_weight(operand) for operand in node.all_input_nodes)
            fused = [operand for operand in operands if operand in found and len(operand.users) == 1]
            result = bool(node.users) and all(self._takes_codes(user, node) for user in node.users)
            if weights or (result and operands and len(coded) + len(fused) == len(operands)):
                found.add(node)
        return found

    def _is_weight(self, operand: Node) -> bool:
        """Whether an operand is a constant that is quantized."""
        if not self._yields_codes(operand):
            return False
        return operand in self._constant or any(source in self._constant for source in operand.all_input_nodes[:1])

    def _reason(self, node: Node) -> Refusal:
        decision = decision_of(node)
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            words = f"the engine does not quantize inside {node.target}, which has no plain form here"
            return Refusal(words, cause=CONTROL_FLOW)
        if node.target is _ATEN.batch_norm.default and (why := why_not_folded(node)):
            return why
        if decision.reason is not None:
            cause = decision.cause or NOT_ANNOTATED
            value = value_of(node)
            if cause == NO_ROW and isinstance(value, torch.Tensor) and not value.is_floating_point():
                return Refusal(decision.reason, cause=DTYPE, advice=f"nothing: its result is {value.dtype}, not float")
            return Refusal(decision.reason, cause=cause, advice=decision.advice or ADVICE[cause])
        if not self._annotated:
            return Refusal("the quantizer left no annotation on it", cause=UNPREPARED)
        return Refusal("the quantizer left no annotation on it", cause=NOT_ANNOTATED)

    def _yields_codes(self, node: Node) -> bool:
        """Whether what a node yields lies on the grid of some codes."""
        if is_dequantize(node) or is_observer_call(node, self._modules):
            return True
        annotation = self._annotation.get(node)
        return annotation is not None and annotation.output_qspec is not None

    def _takes_codes(self, user: Node, tensor: Node) -> bool:
        """Whether a node quantizes a tensor that it reads."""
        if is_quantize(user) or is_observer_call(user, self._modules):
            return True
        annotation = self._annotation.get(user)
        return annotation is not None and annotation.input_qspec_map.get(tensor) is not None

    def _find_passing(self, model: GraphModule) -> set[Node]:
        """Return the ops that nobody claimed and that move values from quantized points to quantized points alone."""
        fed: set[Node] = set()
        for node in model.graph.nodes:
            if node not in self._constant and node not in self._annotation and moves(node):
                operands = [operand for operand in node.all_input_nodes if operand not in self._constant]
                if operands and all(operand in fed or self._yields_codes(operand) for operand in operands):
                    fed.add(node)
        passing: set[Node] = set()
        for node in reversed(model.graph.nodes):
            users = list(node.users) if node in fed else []
            if users and all(user in passing or self._takes_codes(user, node) for user in users):
                passing.add(node)
        return {node for node in passing if is_op(node)}
