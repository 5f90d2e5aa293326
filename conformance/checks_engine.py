"""E1, E3, E4: annotating is deterministic, the result survives copies and files, and nothing else is touched."""

from __future__ import annotations

import copy
import io
import warnings

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.conformance.bench import Bench, export, leaves, quantize
from quantizer_sdk.conformance.finding import Finding, failed, passed
from quantizer_sdk.conformance.fingerprint import fingerprint

__all__ = ["annotation_is_deterministic", "nothing_else_is_touched", "result_survives"]

aten = torch.ops.aten
_KEY = "quantization_annotation"


def annotation_is_deterministic(bench: Bench) -> Finding:
    """E1."""
    first = fingerprint(bench.converted)
    again = export(bench.module, bench.batches[0])
    if fingerprint(quantize(again, bench.quantizer(), bench.batches, bench.scenario.data)) != first:
        return failed("not repeatable", "quantizing the same model again gives another graph")
    renamed = export(bench.module, bench.batches[0])
    _rename_and_sink(renamed)
    if fingerprint(quantize(renamed, bench.quantizer(), bench.batches, bench.scenario.data)) != first:
        return failed("depends on names", "with other node names and constants placed later the graph is another one")
    model, quantizer = export(bench.module, bench.batches[0]), bench.quantizer()
    model = quantizer.transform_for_annotation(model) or model
    model = quantizer.annotate(model) or model
    once = _annotations(model)
    model = bench.quantizer().annotate(model) or model
    if _annotations(model) != once:
        return failed("not idempotent", "annotating an annotated model changes its annotations")
    return passed({"annotations": len(once)})


def _annotations(model: GraphModule) -> dict[str, str]:
    return {node.name: repr(node.meta[_KEY]) for node in model.graph.nodes if _KEY in node.meta}


def _rename_and_sink(model: GraphModule) -> None:
    """Give ops new names in reverse order, and put each constant right before its first user."""
    calls = [node for node in model.graph.nodes if node.op == "call_function"]
    for place, node in enumerate(reversed(calls)):
        node.name = f"renamed_{place}"
    order = {node: place for place, node in enumerate(model.graph.nodes)}
    for node in list(model.graph.find_nodes(op="get_attr")):
        if node.users:
            first: Node = min(node.users, key=order.__getitem__)
            first.prepend(node)
    model.recompile()


def result_survives(bench: Bench) -> Finding:
    """E3."""
    model, inputs = bench.converted, bench.batches[0]
    with torch.no_grad():
        expected = list(leaves(model(*inputs)))
    problems = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not _equal(copy.deepcopy(model), inputs, expected):
            problems.append("a deep copy computes something else")
        stream = io.BytesIO()
        torch.export.save(torch.export.export(model, inputs), stream)
        stream.seek(0)
        if not _equal(torch.export.load(stream).module(), inputs, expected):
            problems.append("saved and loaded it computes something else")
        other = copy.deepcopy(model)
        for tensor in other.state_dict().values():
            tensor.zero_()
        other.load_state_dict(model.state_dict())
        if not _equal(other, inputs, expected):
            problems.append("its state dict, loaded into a copy, gives something else")
    return failed("lost", "; ".join(problems)) if problems else passed({"outputs": len(expected)})


def _equal(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], expected: list[torch.Tensor]) -> bool:
    with torch.no_grad():
        found = list(leaves(model(*inputs)))
    return len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def nothing_else_is_touched(bench: Bench) -> Finding:
    """E4."""
    exported = export(bench.module, bench.batches[0])
    before, state = fingerprint(exported), {name: tensor.clone() for name, tensor in exported.state_dict().items()}
    quantize(exported, bench.quantizer(), bench.batches, bench.scenario.data)
    if fingerprint(exported) != before or any(
        not torch.equal(tensor, state[name]) for name, tensor in exported.state_dict().items()
    ):
        return failed("model changed", "quantizing changed the user's model")
    if any(_KEY in node.meta for node in exported.graph.nodes):
        return failed("model changed", "quantizing left annotations on the user's model")
    # An op that no table of 8-bit kernels has: it must stay float on both sides.
    program = bench.scenario.program
    last = list(program.calls[-1].refs())
    surrounded = program.then(aten.sinh.default, type(last[0])("v", len(program.calls) - 1))
    module = surrounded.module(bench.seed)
    model = quantize(export(module, bench.batches[0]), bench.quantizer(), bench.batches, bench.scenario.data)
    for node in model.graph.nodes:
        if node.target is aten.sinh.default:
            users = [user for user in node.users if user.op != "output"]
            if users:
                return failed("foreign op touched", f"{node.name}, which no row claims, feeds {users[0].target}")
    return passed()
