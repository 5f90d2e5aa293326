"""E2: other ways of exporting the same model give the same quantized model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from quantizer_sdk.conformance.bench import Bench, computed_quantizes, export, leaves, quantize
from quantizer_sdk.conformance.finding import Finding, failed, passed, short
from quantizer_sdk.conformance.kernels import Kernels
from quantizer_sdk.conformance.outcome import Status

__all__ = ["other_exports_agree"]


class _NoGrad(nn.Module):
    """Calls a module without gradients, which an export may wrap into a region of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Any:
        with torch.no_grad():
            return self.inner(*inputs)


class _Twice(nn.Module):
    """Calls a module twice on the same inputs: its parameters have two users."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Any:
        return self.inner(*inputs), self.inner(*[tensor * 0.5 for tensor in inputs])


def other_exports_agree(bench: Bench) -> Finding:
    """E2."""
    kind = bench.scenario.data
    if kind == "called_twice":
        return _called_twice(bench)
    try:
        model = _EXPORTS[kind](bench)
    except _NotExportedError as e:
        return short(Status.UNSUPPORTED, "not exportable", f"torch.export refuses this model in this way: {e}")
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


_EXPORTS: dict[str, Callable[[Bench], GraphModule]] = {
    "strict": _strict,
    "no_grad": _no_grad,
    "training_export": _training,
    "dynamic": _dynamic,
}


def _called_twice(bench: Bench) -> Finding:
    """Both calls of a module are quantized alike: the first call's kernels are the single model's."""
    model = quantize(export(_Twice(bench.module), bench.batches[0]), bench.quantizer(), bench.batches, "generic")
    kernels, alone = Kernels.of(model), bench.kernels
    wanted = {str(kernel.targets) for kernel in alone.found}
    found = [str(kernel.targets) for kernel in kernels.found]
    numbers = {"kernels": len(found), "alone": len(alone.found), "quantizes": len(computed_quantizes(model))}
    missing = [name for name in sorted(wanted) if found.count(name) < 2]
    if missing:
        return failed("structure", f"of two calls, kernels {', '.join(missing)} are there {len(found)} times", numbers)
    return passed(numbers)
