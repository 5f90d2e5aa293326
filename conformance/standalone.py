"""One script that reproduces a failing case by public packages alone: torch, and the runtime's own."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from quantizer_sdk import Backend
from quantizer_sdk.backend import strip_boundary
from quantizer_sdk.conformance.bench import Bench, computed_quantizes, copy_of, tap, tapped_quantizes
from quantizer_sdk.conformance.corpus import MOVES
from quantizer_sdk.conformance.evidence import Evidence, Probe
from quantizer_sdk.conformance.outcome import CHECKS, Outcome, Status, case_check
from quantizer_sdk.conformance.reduce import evidence_of, examples_of
from quantizer_sdk.conformance.scenario import Scenario
from quantizer_sdk.conformance.source import module_source, tensor_literal
from quantizer_sdk.errors import QuantizerError
from quantizer_sdk.templating import fill

__all__ = ["standalone_script"]

_WALKED = frozenset({"C1", "C3", "C4"})
_COUNTED = frozenset({"too often", "bias"})  # what no single code shows, but the number of those across their ties


def standalone_script(scenario: Scenario, backend: Backend, outcome: Outcome, seed: int) -> str:
    """Return a script that exits with 1 if a case's defect is there, and with 0 if it is not.

    It holds the quantized graph as torch code with `torch.ops.quantized_decomposed` operators, its weights and inputs
    as integer literals, and the exact codes. With `Runner.script` it runs the graph on the runtime and compares; else
    it compares what torch makes of the graph. Of the checks that look at no codes, C1, C3 and C4 are made on the graph
    itself, and D1 and D2 on the runtime. What is left, such as C5 and E1, looks at the quantizer, which no script can
    hold: there it shows the graph.

    Args:
        scenario: The scenario.
        backend: What is under test.
        outcome: What one of its checks found; a pass, too, has a script.
        seed: Of all random data.

    Raises:
        QuantizerError: There is no converted graph, or it has no source text.
        MissingDependencyError: Jinja is not installed.
    """
    backend = backend.part_of(scenario.scheme)
    bench = Bench(scenario, backend, seed)
    check = case_check(outcome.id)
    kind = _kind(check, backend, outcome)
    evidence = None if kind in {"contract", "floats"} else _evidence(bench, check, kind, outcome)
    model = bench.converted if evidence is None else evidence.model
    examples = bench.batches[0] if evidence is None else examples_of(model, evidence.inputs)
    tapped = tap(model)
    stripped, inputs = strip_boundary(tapped, examples)
    runner = None if kind in {"contract", "graph"} else _runner_source(backend, tapped, examples)
    if runner is None:
        kind = "contract" if kind == "contract" else "graph"
    elif kind == "floats" and "def floats(" not in runner:
        kind = "lowering"
    if evidence is not None and kind == "graph" and check.startswith("K"):
        evidence = _seen_by_torch(bench, evidence)
    source = module_source(stripped)
    context = {
        "id": outcome.id,
        "statement": CHECKS[check][1],
        "message": _quoted(outcome.message or "nothing: this case passes"),
        "limits": _limits(check, kind),
        "made_with": _made_with(backend),
        "check": check,
        "kind": kind,
        "runner": runner,
        "runner_name": "" if backend.runner is None else backend.runner.name,
        "constants": source.constants,
        "names": source.names,
        "body": source.body,
        "inputs": [tensor_literal(tensor, 4) for tensor in (inputs if evidence is None else evidence.inputs)],
        **_contract_of(bench),
        **_expected(evidence),
    }
    return fill("quantizer_sdk.conformance", "standalone.py.j2", context)


def _kind(check: str, backend: Backend, outcome: Outcome) -> str:
    """Return what the script looks at: codes of the graph or of the runtime, the graph itself, or what ran."""
    if check in _WALKED:
        return "contract"
    if backend.runner is None or backend.runner.script is None or check[0] not in "KD":
        return "graph"
    broken = outcome.status is Status.ERROR or outcome.signature == "lowering"
    if check == "D2" and not broken:
        return "floats"
    return "lowering" if broken or check == "D1" else "kernel"


def _runner_source(backend: Backend, tapped: GraphModule, examples: Sequence[Tensor]) -> str | None:
    """Return the runtime's part of the script; None where the runtime has no model of this graph."""
    script = None if backend.runner is None else backend.runner.script
    if script is None or isinstance(script, str):
        return script
    try:
        return script(tapped, examples)
    except QuantizerError:
        return None


def _limits(check: str, kind: str) -> str | None:
    """Return what the script cannot see of what the check looks at."""
    if kind == "graph" and check[0] in "KD":
        return "How the runtime is called is not known here, so only what torch makes of the graph is compared."
    if kind == "graph" and check[0] != "R":
        return "The check is about the quantizer, which is not here: what is compared is what its graph computes."
    if kind == "lowering" and check == "D2":
        return "Which kernels ran cannot be asked for here, only whether the graph runs."
    return None


def _evidence(bench: Bench, check: str, kind: str, outcome: Outcome) -> Evidence | None:
    """Return the smallest evidence of a defect, or else what is right at the last quantize; None without codes."""
    compared = check if check[0] in "RK" and kind != "lowering" else "K2" if kind == "kernel" else "R1"
    try:
        return evidence_of(bench, compared, strict=outcome.signature in _COUNTED)
    except QuantizerError:
        return None


def _seen_by_torch(bench: Bench, evidence: Evidence) -> Evidence:
    """Return what is right for torch's arithmetic in the place of a kernel's, on the same inputs."""
    probe = Probe(evidence.model, bench.backend, "R1", examples_of(evidence.model, evidence.inputs))
    return next(seen for seen in probe.look(evidence.inputs) if seen.node == evidence.node)


def _expected(evidence: Evidence | None) -> dict[str, Any]:
    """Return what the template needs to compare codes."""
    if evidence is None:
        return {"expected": None}
    exact = torch.equal(evidence.low, evidence.expected) and torch.equal(evidence.high, evidence.expected)
    return {
        "output": _output_of(evidence),
        "expected": tensor_literal(evidence.expected),
        "low": None if exact else tensor_literal(evidence.low),
        "high": None if exact else tensor_literal(evidence.high),
        "place": evidence.place,
        "numerator": evidence.r.numerator,
        "denominator": evidence.r.denominator,
        "decimal": f"{float(evidence.r):.9g}",
    }


def _output_of(evidence: Evidence) -> int:
    """Return which result of the tapped graph a quantize's codes are: its own, or those of the copy that it feeds."""
    by_name = {node.name: node for node in computed_quantizes(evidence.model)}
    tapped = tapped_quantizes(evidence.model)
    node = by_name[evidence.node]
    while node not in tapped:
        following = copy_of(node)
        assert following is not None
        node = following
    return tapped.index(node)


def _contract_of(bench: Bench) -> dict[str, Any]:
    """Return what the checks of the graph itself need: which ops of it the table fuses, and which only move codes."""
    present = {node.target for node in bench.converted.graph.nodes if node.op == "call_function"}
    pairs = {
        (str(first), str(second))
        for row in getattr(bench.quantizer(), "rows", ())
        for step, following in itertools.pairwise(row.steps)
        for first in step.targets & present
        for second in following.targets & present
    }
    profile = bench.backend.profile
    return {
        "fused": sorted(pairs),
        "moves": sorted(str(target) for target in MOVES & present),
        "relu_at_quant_min": profile is not None and profile.relu_at_quant_min,
    }


def _made_with(backend: Backend) -> str:
    environment = None if backend.runner is None else backend.runner.environment
    versions = {"torch": torch.__version__, **(environment() if environment is not None else {})}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _quoted(message: str) -> str:
    """Return a message as lines of a docstring."""
    return textwrap.fill(message, 112).replace("\\", "\\\\").replace('"', "'")
