"""E1, E3, E4: annotating is deterministic, the result survives copies and files, and nothing else is touched."""

from __future__ import annotations

import copy
import io
import re
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.conformance.bench import Bench, export, leaves, quantize
from quantizer_sdk.conformance.finding import Finding, failed, passed
from quantizer_sdk.conformance.fingerprint import fingerprint

__all__ = ["annotation_is_deterministic", "nothing_else_is_touched", "result_survives"]

aten = torch.ops.aten
_KEY = "quantization_annotation"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def annotation_is_deterministic(bench: Bench) -> Finding:
    """E1."""
    first = fingerprint(bench.converted)
    used = bench.quantizer()
    again = export(bench.module, bench.batches[0])
    if fingerprint(quantize(again, used, bench.batches, bench.scenario.data)) != first:
        return failed("not repeatable", "quantizing the same model again gives another graph")
    again = export(bench.module, bench.batches[0])
    if fingerprint(quantize(again, used, bench.batches, bench.scenario.data)) != first:
        return failed("not repeatable", "a quantizer that was used before gives another graph")
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
    """Return each node's annotation in words, without the places in memory of functions that it names."""
    return {node.name: _ADDRESS.sub("", repr(node.meta[_KEY])) for node in model.graph.nodes if _KEY in node.meta}


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
        for name, revive in _COPIES.items():
            try:
                same = _equal(revive(model, inputs), inputs, expected)
            except Exception as e:  # noqa: BLE001  # whatever refuses, the model is lost
                problems.append(f"{name}: {type(e).__name__}: {e}")
                continue
            if not same:
                problems.append(f"{name} computes something else")
    return failed("lost", "; ".join(problems)) if problems else passed({"outputs": len(expected)})


def _saved(model: GraphModule, inputs: tuple[torch.Tensor, ...]) -> torch.nn.Module:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(model, inputs), stream)
    stream.seek(0)
    return torch.export.load(stream).module()


def _loaded(model: GraphModule, _inputs: tuple[torch.Tensor, ...]) -> torch.nn.Module:
    """Load the state dict into a copy that knows nothing: buffers that are no part of the state are emptied too."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.zero_()
    other.load_state_dict(model.state_dict())
    return other


_COPIES: Mapping[str, Callable[[GraphModule, tuple[torch.Tensor, ...]], torch.nn.Module]] = MappingProxyType(
    {
        "a deep copy": lambda model, _inputs: copy.deepcopy(model),
        "the model saved and loaded": _saved,
        "its state dict in a copy": _loaded,
    }
)
"""Ways to come by the model again."""


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
    foreign = [node for node in model.graph.nodes if node.target is aten.sinh.default]
    if len(foreign) != 1:
        return failed(
            "foreign op touched", f"aten.sinh, which no row claims, is there {len(foreign)} times; expected once"
        )
    for user in foreign[0].users:
        if user.op != "output":
            return failed("foreign op touched", f"{foreign[0].name}, which no row claims, feeds {user.target}")
    return passed()
