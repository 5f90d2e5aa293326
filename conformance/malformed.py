"""C5: each malformed annotation ends in a named error that names the node and what is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk import (
    DerivedQuantizationSpec,
    QuantizationSpec,
    Quantizer,
    QuantizerError,
    SharedQuantizationSpec,
    calibrate,
    convert_pt2e,
    prepare_pt2e,
)
from quantizer_sdk.conformance.bench import Bench
from quantizer_sdk.conformance.finding import Finding, failed, passed, short
from quantizer_sdk.conformance.outcome import Status

__all__ = ["malformed_is_refused"]

_KEY = "quantization_annotation"
_REMEDY = 20
"""An error that says what would be accepted is longer than this many letters beyond the node's name."""


def malformed_is_refused(bench: Bench) -> Finding:
    """C5."""
    spoiled: list[str] = []

    class Spoiled(Quantizer):
        """The backend's quantizer, whose last annotation is made wrong."""

        def transform_for_annotation(self, model: GraphModule) -> GraphModule:
            return inner.transform_for_annotation(model)

        def annotate(self, model: GraphModule) -> GraphModule:
            result = inner.annotate(model) or model
            nodes = [node for node in result.graph.nodes if node.op == "call_function" and _KEY in node.meta]
            if nodes:
                spoiled.append(nodes[-1].name)
                _SPOILERS[bench.scenario.data](nodes[-1], nodes[-1].meta[_KEY], result)
            return result

        def validate(self, model: GraphModule) -> None:
            """Leave all to the engine."""

    inner = bench.quantizer()
    try:
        prepared = prepare_pt2e(bench.exported, Spoiled())
        calibrate(prepared, bench.batches)
        convert_pt2e(prepared)
    except QuantizerError as e:
        message = str(e)
        named = bool(spoiled) and spoiled[0] in message
        if not named or len(message) < len(spoiled[0]) + _REMEDY:
            return failed("unnamed", f"{type(e).__name__}: {message}; expected the name of {spoiled[:1]} and a remedy")
        return passed({"error": type(e).__name__})
    except Exception as e:  # noqa: BLE001  # that is what is looked for
        return failed("crash", f"{type(e).__name__}: {e}; expected a QuantizerError that names {spoiled[:1]}")
    if not spoiled:
        return short(Status.UNKNOWN, "nothing annotated", "the quantizer annotated no op that could be spoiled")
    return failed("accepted", f"the annotation of {spoiled[0]} was made wrong ({bench.scenario.data}) and accepted")


def _edge_missing(node: Node, annotation: object, model: GraphModule) -> None:
    stranger = next(other for other in model.graph.nodes if other not in node.all_input_nodes and other is not node)
    _inputs(annotation)[stranger] = _spec()


def _axis_out_of_rank(node: Node, annotation: object, _model: GraphModule) -> None:
    wrong = replace(_spec(), qscheme=torch.per_channel_symmetric, ch_axis=9, observer_or_fake_quant_ctr=None)
    _inputs(annotation)[node.all_input_nodes[0]] = wrong


def _shared_nowhere(node: Node, annotation: object, model: GraphModule) -> None:
    output = next(iter(model.graph.find_nodes(op="output")))
    placeholder = next(iter(model.graph.find_nodes(op="placeholder")))
    _inputs(annotation)[node.all_input_nodes[0]] = SharedQuantizationSpec((output, placeholder))


def _shared_cycle(node: Node, annotation: object, _model: GraphModule) -> None:
    source = node.all_input_nodes[0]
    _inputs(annotation)[source] = SharedQuantizationSpec(node)
    annotation.output_qspec = SharedQuantizationSpec((source, node))  # type: ignore[attr-defined]
    for other in node.all_input_nodes[1:]:
        _inputs(annotation).pop(other, None)


def _derived_nowhere(node: Node, annotation: object, model: GraphModule) -> None:
    output = next(iter(model.graph.find_nodes(op="output")))
    _inputs(annotation)[node.all_input_nodes[0]] = DerivedQuantizationSpec(
        derived_from=((node, output),),
        derive_qparams_fn=lambda _observers: (torch.ones(1), torch.zeros(1, dtype=torch.int32)),
        dtype=torch.int32,
        qscheme=torch.per_tensor_symmetric,
    )


def _not_a_spec(_node: Node, annotation: object, _model: GraphModule) -> None:
    annotation.output_qspec = "int8"  # type: ignore[attr-defined]


def _inputs(annotation: object) -> dict[Node, object]:
    found: dict[Node, object] = annotation.input_qspec_map  # type: ignore[attr-defined]
    return found


def _spec() -> QuantizationSpec:
    return QuantizationSpec(torch.int8, None, -128, 127, torch.per_tensor_affine)


_SPOILERS: dict[str, Callable[[Node, object, GraphModule], None]] = {
    "edge_missing": _edge_missing,
    "axis_out_of_rank": _axis_out_of_rank,
    "shared_nowhere": _shared_nowhere,
    "shared_cycle": _shared_cycle,
    "derived_nowhere": _derived_nowhere,
    "not_a_spec": _not_a_spec,
}
