"""M1: whole models. Each kernel on what it really had before it, then the model from end to end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from quantizer_sdk.conformance.bench import (
    Bench,
    export,
    input_quantizes,
    leaves,
    named_codes,
    quantize,
    tap,
)
from quantizer_sdk.conformance.comparison import Comparison
from quantizer_sdk.conformance.finding import Finding, failed, passed, short
from quantizer_sdk.conformance.models import REAL_MODELS
from quantizer_sdk.conformance.oracle import run_oracle
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.regimes import activation_data
from quantizer_sdk.errors import MissingDependencyError

__all__ = ["model_holds"]

_NOISE = 0.10
_DEFICIT_DB = 3.0
_AGREEMENT = 0.995
_BATCHES = 8
_AT_ONCE = 2
"""Batch size of real data; one batch is judged kernel by kernel, for exact arithmetic takes its time."""
_CALIBRATING = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Subject:
    """A float model, what calibrates it, and the batches that it is judged on."""

    module: nn.Module
    calibration: Sequence[tuple[Tensor, ...]]
    batches: Sequence[tuple[Tensor, ...]]
    judged: tuple[Tensor, ...]


def model_holds(bench: Bench) -> Finding:
    """M1."""
    try:
        subject = _subject(bench)
    except MissingDependencyError as e:
        return short(Status.UNKNOWN, "not installed", str(e))
    with torch.no_grad():
        return _judged(bench, subject)


def _judged(bench: Bench, subject: _Subject) -> Finding:
    exported = export(subject.module, subject.batches[0])
    converted = quantize(exported, bench.quantizer(), subject.calibration, "generic")
    plain = quantize(exported, bench.quantizer(), subject.calibration, "min_max")
    wanted = [next(leaves(exported(*batch))).double() for batch in subject.batches]
    graph = [next(leaves(converted(*batch))).double() for batch in subject.batches]
    simple = [next(leaves(plain(*batch))).double() for batch in subject.batches]
    signal, noise, baseline = _power(wanted), _power(wanted, graph), _power(wanted, simple)
    numbers: dict[str, Any] = {"sqnr_db": _decibels(signal, noise), "baseline_db": _decibels(signal, baseline)}
    if numbers["sqnr_db"] < numbers["baseline_db"] - _DEFICIT_DB:
        message = f"{numbers['sqnr_db']} dB against the float model; with min-max ranges {numbers['baseline_db']} dB"
        return failed("deficit", message, numbers)
    if bench.backend.runner is None:
        return passed(numbers)
    layers, blame = _layer_by_layer(bench, converted, subject.judged)
    numbers |= layers.numbers()
    if layers.outside:
        return failed("outside", f"kernel by kernel: {layers}; most in {blame}", numbers)
    executable = bench.backend.lower(converted, list(subject.batches[0]))
    kernel = [next(leaves(executable.run(*batch))).double() for batch in subject.batches]
    floor = _power(graph, [next(leaves(_otherwise(converted, batch))).double() for batch in subject.batches])
    added = _power(graph, kernel)
    numbers |= {
        "kernel_noise": _ratio(added, noise),
        "graph_noise": _ratio(floor, noise),
        "agreement": _agreement(graph, kernel),
        "agreement_float": _agreement(wanted, kernel),
    }
    # Where flipped ties grow on their way through a model, the graph itself is that far from the graph: two draws of
    # one such noise lie within a factor of 2 of each other.
    if numbers["kernel_noise"] > max(_NOISE, 2 * numbers["graph_noise"]):
        message = (
            f"the kernels add {numbers['kernel_noise']:.1%} of the quantization noise; the q/dq graph on other float "
            f"kernels adds {numbers['graph_noise']:.1%}, and {_NOISE:.0%} is allowed"
        )
        return failed("noise", message, numbers)
    if numbers["agreement"] < _AGREEMENT:
        message = (
            f"kernels and q/dq graph name the same class for {numbers['agreement']:.1%}; expected {_AGREEMENT:.1%}"
        )
        return failed("classes", message, numbers)
    return passed(numbers)


def _subject(bench: Bench) -> _Subject:
    name = bench.scenario.subject.removeprefix("model.")
    for model in REAL_MODELS:
        if model.name == name:
            module, data = model.load(), model.data()
            batches: list[tuple[Tensor, ...]] = [(part,) for part in torch.split(data, _AT_ONCE)]
            return _Subject(module=module, calibration=batches[:_CALIBRATING], batches=batches, judged=batches[0])
    inputs = bench.scenario.program.inputs
    batches = [
        tuple(activation_data(shape, place, "generic", 100 * bench.seed + batch) for place, shape in enumerate(inputs))
        for batch in range(_BATCHES)
    ]
    return _Subject(module=bench.module, calibration=batches, batches=batches, judged=batches[0])


def _layer_by_layer(bench: Bench, converted: GraphModule, inputs: Sequence[Tensor]) -> tuple[Comparison, str]:
    """Compare every kernel's codes with the exact ones on its own inputs; name the one with most mismatches."""
    codes = [
        torch.ops.quantized_decomposed.quantize_per_tensor.default(tensor, *node.args[1:])
        for tensor, node in zip(inputs, input_quantizes(converted), strict=True)
    ]
    executable = bench.backend.lower(tap(converted), list(inputs), integer_io=True)
    found = named_codes(converted, executable.run(*codes))
    comparison, blame = Comparison(), ("no kernel", 0)
    for site in run_oracle(converted, codes, bench.backend.profile, found).sites:
        before = comparison.mismatches
        comparison.add(site.node, found[site.node], site.requantized, site.kernel_delta)
        if comparison.mismatches - before > blame[1]:
            blame = (site.node, comparison.mismatches - before)
    return comparison, blame[0]


def _otherwise(model: GraphModule, batch: Sequence[Tensor]) -> Any:
    """Run a graph on torch's other float32 kernels."""
    with torch.backends.mkldnn.flags(enabled=False):
        return model(*batch)


def _power(reference: Sequence[Tensor], other: Sequence[Tensor] | None = None) -> float:
    others = other or [torch.zeros_like(value) for value in reference]
    return sum(float((a - b).square().sum()) for a, b in zip(reference, others, strict=True))


def _decibels(signal: float, noise: float) -> float:
    return 200.0 if noise == 0 else round(10 * math.log10(signal / noise), 2)


def _ratio(added: float, present: float) -> float:
    return round(added / present, 5) if present else float(added > 0)


def _agreement(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    pairs = [(a.argmax(-1) == b.argmax(-1)).double() for a, b in zip(ours, theirs, strict=True)]
    return round(float(torch.cat([pair.flatten() for pair in pairs]).mean()), 5)
