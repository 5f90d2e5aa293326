"""E2: other ways of exporting the same model give the same quantized model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from quantizer_sdk.conformance.baseline import Closeness, baseline_codes
from quantizer_sdk.conformance.bench import (
    Bench,
    computed_quantizes,
    dequantized,
    export,
    graph_codes,
    leaves,
    quantize,
)
from quantizer_sdk.conformance.finding import Finding, failed, passed, short
from quantizer_sdk.conformance.kernels import Kernels
from quantizer_sdk.conformance.oracle import run_oracle
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.relations import close
from quantizer_sdk.errors import NothingAnnotatedError

__all__ = ["FACTORS", "exported_otherwise", "exported_twice", "other_exports_agree"]

FACTORS = (1.0, 0.5)
"""By what the inputs of each of two calls of a module are multiplied."""


class _NoGrad(nn.Module):
    """Calls a module without gradients, which an export may wrap into a region of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Any:
        with torch.no_grad():
            return self.inner(*inputs)


class _Twice(nn.Module):
    """Calls a module twice, on inputs of two sizes: its parameters have two users."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Any:
        return tuple(self.inner(*[tensor * factor for tensor in inputs]) for factor in FACTORS)


def other_exports_agree(bench: Bench) -> Finding:
    """E2."""
    plain = bench.kernels.found  # raises where nothing is quantized even so
    try:
        return _agree(bench)
    except NothingAnnotatedError as e:
        return failed("structure", f"nothing is quantized; exported plainly, {len(plain)} kernels are: {e}")


def _agree(bench: Bench) -> Finding:
    kind = bench.scenario.data
    if kind == "called_twice":
        return _called_twice(bench)
    model = exported_otherwise(bench)
    if isinstance(model, Finding):
        return model
    other = quantize(model, bench.quantizer(), bench.batches, "generic")
    ours = [str(kernel.targets) for kernel in bench.kernels.found]
    theirs = [str(kernel.targets) for kernel in Kernels.of(other).found]
    numbers = {"kernels": len(ours), "other": len(theirs)}
    if len(ours) != len(theirs):
        return failed(
            "structure", f"kernels {', '.join(theirs) or 'none'}; exported plainly {', '.join(ours)}", numbers
        )
    with torch.no_grad():
        pairs = zip(leaves(bench.converted(*bench.batches[0])), leaves(other(*bench.batches[0])), strict=True)
        differing = sum(int((a != b).sum()) for a, b in pairs)
    numbers["differing"] = differing
    if differing:
        return failed("numbers", f"{differing} elements differ from those of the plain export", numbers)
    return _other_size(bench, other, numbers) if kind == "dynamic" else passed(numbers)


def exported_otherwise(bench: Bench) -> GraphModule | Finding:
    """Return the model exported as the scenario's data says, or what to report where torch.export refuses that."""
    try:
        return _EXPORTS[bench.scenario.data](bench)
    except _NotExportedError as e:
        return short(Status.UNSUPPORTED, "not exportable", f"torch.export refuses this model in this way: {e}")


def exported_twice(bench: Bench) -> GraphModule:
    """Return a model that calls the module twice, on its inputs times each of `FACTORS`."""
    return export(_Twice(bench.module), bench.batches[0])


def _other_size(bench: Bench, model: GraphModule, numbers: dict[str, int]) -> Finding:
    """Look whether a model with an open batch size gives for a batch of another size what it gives for its parts."""
    first, second = bench.runs[:2]
    joined = [torch.cat(pair) for pair in zip(first.codes, second.codes, strict=True)]
    try:
        with torch.no_grad():
            floats = [
                [dequantized(*pair) for pair in zip(bench.input_quantizes, codes, strict=True)]
                for codes in (first.codes, second.codes, joined)
            ]
            results = [list(leaves(bench.module(*tensors))) for tensors in floats]
    except RuntimeError:
        return passed(numbers)  # the float model itself takes no other size
    parts = [torch.cat(pair) for pair in zip(*results[:2], strict=True)]
    if any(a.shape != b.shape or not close(a, b) for a, b in zip(parts, results[2], strict=True)):
        return passed(numbers)  # it mixes the elements of a batch
    try:
        apart = [graph_codes(model, run.codes) for run in (first, second)]
        whole = graph_codes(model, joined)
    except RuntimeError as e:
        words = f"with an open batch size, it does not run on {len(joined[0])} elements: {e}"
        return failed("size", words.splitlines()[0], numbers)
    outside = 0
    for site in run_oracle(model, joined, bench.backend.profile, whole).sites:
        wanted = torch.cat([codes[site.node] for codes in apart])
        if wanted.shape != whole[site.node].shape:
            found = tuple(whole[site.node].shape)
            return failed("size", f"{site.node} has shape {found} for a joined batch; expected {tuple(wanted.shape)}")
        near = site.requantized.half_distance <= site.graph_delta
        outside += int(((whole[site.node] != wanted) & ~near).sum())
    numbers["outside"] = outside
    if outside:
        return failed("size", f"{outside} codes change beyond ties when two batches are joined to one", numbers)
    return passed(numbers)


class _NotExportedError(Exception):
    """The model cannot be exported in this way, whatever quantizes it."""


def _exported(module: nn.Module, inputs: tuple[Tensor, ...], **options: Any) -> GraphModule:
    try:
        return export(module, inputs, **options)
    except Exception as e:
        raise _NotExportedError(f"{type(e).__name__}: {str(e).splitlines()[0]}") from e


def _strict(bench: Bench) -> GraphModule:
    return _exported(bench.module, bench.batches[0], strict=True)


def _no_grad(bench: Bench) -> GraphModule:
    return _exported(_NoGrad(bench.module), bench.batches[0])


def _training(bench: Bench) -> GraphModule:
    """Through an exported program whose decompositions ran with an empty table, as the lowering of a peer does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(copy.deepcopy(bench.module).eval(), bench.batches[0], strict=False)
    return program.module(check_guards=False)


def _dynamic(bench: Bench) -> GraphModule:
    """With an open batch size, where every input has one of 2 or more."""
    shapes = bench.scenario.program.inputs
    sizes = {shape[0] for shape in shapes}
    if len(sizes) != 1 or min(sizes) < 2:
        raise _NotExportedError("its inputs have no common batch axis of size 2 or more")
    batch = torch.export.Dim("batch", min=2, max=64)
    return _exported(bench.module, bench.batches[0], dynamic_shapes=(tuple({0: batch} for _ in shapes),))


def _alias(bench: Bench) -> GraphModule:
    """With the next of an op's names, where it has several."""
    program = bench.scenario.program
    calls = tuple(
        replace(call, target=_NAMES[_NAMES.index(call.target) - 1]) if call.target in _NAMES else call
        for call in program.calls
    )
    if calls == program.calls:
        raise _NotExportedError("none of its ops has another name")
    return _exported(replace(program, calls=calls).module(bench.seed), bench.batches[0])


_NAMES = (torch.ops.aten.cat.default, torch.ops.aten.concat.default, torch.ops.aten.concatenate.default)
"""One op by all its names."""

_EXPORTS: dict[str, Callable[[Bench], GraphModule]] = {
    "alias": _alias,
    "strict": _strict,
    "no_grad": _no_grad,
    "training_export": _training,
    "dynamic": _dynamic,
}


def _called_twice(bench: Bench) -> Finding:
    """Both calls of a module are quantized alike: the first call's kernels are the single model's."""
    model = quantize(exported_twice(bench), bench.quantizer(), bench.batches, "generic")
    kernels, alone = Kernels.of(model), bench.kernels
    wanted = {str(kernel.targets) for kernel in alone.found}
    found = [str(kernel.targets) for kernel in kernels.found]
    numbers: dict[str, float] = {"kernels": len(found), "alone": len(alone.found)}
    numbers |= {"quantizes": len(computed_quantizes(model))}
    missing = [name for name in sorted(wanted) if found.count(name) < 2]
    if missing:
        return failed("structure", f"of two calls, kernels {', '.join(missing)} are there {len(found)} times", numbers)
    for place, factor in enumerate(FACTORS):
        closeness = _closeness(bench, model, place, factor)
        numbers[f"sqnr_db_{place}"] = round(closeness.sqnr_db, 2)
        if closeness.falls_short:
            message = (
                f"call {place} of two: {closeness.sqnr_db:.1f} dB against the float model; plain min-max of 8 bits "
            )
            return failed("deficit", f"{message}reaches {closeness.baseline_db:.1f} dB", numbers)
    return passed(numbers)


def _closeness(bench: Bench, model: GraphModule, place: int, factor: float) -> Closeness:
    """Return how close the results of one of two calls are to those of the float module."""
    closeness = Closeness()
    batches = [[tensor * factor for tensor in batch] for batch in bench.batches]
    for scaled, batch in zip(batches, bench.batches, strict=True):
        with torch.no_grad():
            wanted = list(leaves(bench.module(*[tensor.clone() for tensor in scaled])))
            found = list(leaves(model(*[tensor.clone() for tensor in batch])))
        ours = found[place * len(wanted) :][: len(wanted)]
        for results in zip(wanted, ours, baseline_codes(bench.module, batches, scaled), strict=True):
            closeness.add(*results)
    return closeness
