"""K1 to K7 of gemms that quantize their activation at run time: the real kernels' float32 results.

What codes a kernel came to is not seen, so results are held to the rule, with room for the codes that lie next to a
tie; K1 and K3 hold every bit of them to the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizer_sdk.conformance.bench import export, quantize
from quantizer_sdk.conformance.dynamic_bench import DynamicBench
from quantizer_sdk.conformance.dynamic_emulator import Predicted
from quantizer_sdk.conformance.dynamic_gemms import rows_of
from quantizer_sdk.conformance.finding import Finding, does_not_apply, failed, passed, short
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.relations import batch_size
from quantizer_sdk.errors import LoweringError

__all__ = ["bit_exact", "ties", "within_bounds"]

_MOST_OPEN = 0.5
"""The largest part of results that may hold a code next to a tie, for a comparison to say anything."""


@dataclass(slots=True)
class _Bits:
    """Counts of results against predicted ones."""

    elements: int = 0
    mismatches: int = 0
    unknown: int = 0
    worst: str = ""

    def add(self, found: Tensor, predicted: Predicted) -> None:
        """Take results; a NaN equals a NaN."""
        same = found.view(torch.int32) == predicted.value.view(torch.int32)
        same |= found.isnan() & predicted.value.isnan()
        wrong = ~same & predicted.known
        self.elements += int(predicted.known.sum())
        self.unknown += int((~predicted.known).sum())
        self.mismatches += int(wrong.sum())
        if bool(wrong.any()):
            place = int((found.double() - predicted.value.double()).abs().masked_fill(~wrong, -1.0).argmax())
            values = (float(tensor.flatten()[place]) for tensor in (found, predicted.value))
            self.worst = "result {} is {:.9g}, predicted {:.9g}".format(place, *values)

    def numbers(self) -> dict[str, int]:
        """Return the figures."""
        return {"elements": self.elements, "mismatches": self.mismatches, "unpredicted": self.unknown}


def bit_exact(bench: DynamicBench) -> Finding:
    """K1."""
    profile = bench.backend.profile
    if profile is None:
        return short(Status.UNKNOWN, "no profile", "the backend has no profile, so no bits are predicted")
    bits = _Bits()
    for run, found in zip(bench.float_runs, bench.results, strict=True):
        predicted = bench.predicted(run.x)
        if predicted is None:
            message = f"profile {profile.name!r} does not say how gemms of run-time qparams compute"
            return short(Status.UNKNOWN, "no arithmetic", message)
        bits.add(found, predicted)
    numbers = {**bits.numbers(), "allowed": 0}
    if bits.mismatches:
        message = f"{bits.mismatches} of {bits.elements} results are not what profile {profile.name!r} predicts"
        return failed("bits", f"{message}; {bits.worst}", numbers)
    if bits.elements <= bits.unknown:
        message = f"{bits.unknown} results depend on the order in which groups are added, which no profile names"
        return short(Status.UNKNOWN, "no arithmetic", message, numbers)
    return passed(numbers)


@dataclass(slots=True)
class _Bounds:
    """Counts of results against exact ones."""

    elements: int = 0
    outside: int = 0
    open: int = 0
    ratio: float = 0.0
    worst: str = ""

    def add(self, bench: DynamicBench, x: Tensor, found: Tensor) -> None:
        """Take the results for a finite input."""
        bounded = bench.bounded(x)
        ratio = (found.double() - bounded.exact).abs() / bounded.bound
        ratio = torch.where(torch.isnan(ratio), torch.inf, ratio)
        self.elements += ratio.numel()
        self.outside += int((ratio > 1).sum())
        self.open += int(bounded.open.sum())
        if ratio.numel() and float(ratio.max()) > self.ratio:
            place = int(ratio.argmax())
            self.ratio = float(ratio.max())
            values = (float(tensor.flatten()[place]) for tensor in (found, bounded.exact, bounded.bound))
            self.worst = "result {} is {:.9g}, exactly {:.9g}, and may be off by {:.3g}".format(place, *values)

    def numbers(self) -> dict[str, float]:
        """Return the figures."""
        return {"elements": self.elements, "outside": self.outside, "open": self.open, "worst": round(self.ratio, 4)}

    def finding(self) -> Finding:
        """Return what they come to."""
        if self.outside:
            message = f"the kernel leaves the exact results {self.outside} times of {self.elements}: {self.worst}"
            return failed("outside", message, self.numbers())
        if not self.elements or self.open > _MOST_OPEN * self.elements:
            message = f"{self.open} of {self.elements} results hold a code that may be another one"
            return short(Status.MISTRUSTED, "uninformative", message, self.numbers())
        return passed(self.numbers())


def within_bounds(bench: DynamicBench) -> Finding:
    """K2, K5, K6, K7."""
    if bench.scenario.data == "dynamic_batch":
        return _dynamic_batch(bench)
    if bench.scenario.data == "nonfinite":
        return _nonfinite(bench)
    bounds = _Bounds()
    for run, found in zip(bench.float_runs, bench.results, strict=True):
        bounds.add(bench, run.x, found)
    return bounds.finding()


def ties(bench: DynamicBench) -> Finding:
    """K3."""
    bits, tied = _Bits(), 0
    bounds = _Bounds()
    for run, found in zip(bench.float_runs, bench.results, strict=True):
        bounds.add(bench, run.x, found)
        predicted = bench.predicted(run.x)
        if predicted is not None:
            bits.add(found, predicted)
        tied += _tied(bench, run.x)
    numbers = {**bounds.numbers(), "tied_values": tied, "decided_otherwise": bits.mismatches}
    if bounds.outside:
        return failed("outside", f"the kernel leaves the exact results on ties: {bounds.worst}", numbers)
    if bits.mismatches:
        message = f"{bits.mismatches} of {bits.elements} results on ties are not what the profile says; {bits.worst}"
        return failed("rounds otherwise", message, numbers)
    if not tied:
        return short(Status.MISTRUSTED, "no ties", "no value lies halfway between two codes", numbers)
    return passed(numbers)


def _tied(bench: DynamicBench, x: Tensor) -> int:
    """Count the values that lie exactly halfway between two codes."""
    values = rows_of(x, bench.own).double()
    low, high = values.amin(1, keepdim=True).clamp(max=0.0), values.amax(1, keepdim=True).clamp(min=0.0)
    steps = bench.gemm.code_range[1] - bench.gemm.code_range[0]
    r = torch.where(high > low, values * (steps / (high - low).clamp(min=2.0**-149)), 0.0)
    return int((r - torch.floor(r) == 0.5).sum())


def _dynamic_batch(bench: DynamicBench) -> Finding:
    """K5 of a program whose batch size is open: each size gives what the graph of that size does."""
    if batch_size(bench.scenario.program) is None:
        return does_not_apply("its inputs have no common batch axis of size 2 or more")
    dynamic = ({0: torch.export.Dim("batch", min=1, max=16)},)
    try:
        model = export(bench.module, bench.batches[0], dynamic_shapes=(dynamic,))
    except Exception as e:  # noqa: BLE001  # whatever torch.export raises, it is the model's shape that it refuses
        words = str(e).splitlines()[0] if str(e) else type(e).__name__
        return short(Status.UNSUPPORTED, "not exportable", f"torch.export refuses an open batch size: {words}")
    converted = quantize(model, bench.quantizer(), bench.batches, "generic")
    program = bench.backend.lower(converted, list(bench.batches[0]), dynamic_shapes=dynamic)
    bounds = _Bounds()
    for size, x in zip((2, 7, 3), _joined(bench), strict=True):
        bounds.add(bench, x[:size], bench.run_program(program, x[:size].contiguous()))
    return bounds.finding()


def _joined(bench: DynamicBench) -> Sequence[Tensor]:
    """Return three inputs of 7 or more elements each."""
    count = -(-7 // bench.batches[0][0].shape[0])
    return [torch.cat([bench.floats(10 * place + seed) for seed in range(count)]) for place in range(3)]


def _nonfinite(bench: DynamicBench) -> Finding:
    """K7 of rows with infinities or NaN, whose results nothing specifies: they spoil no other row, and no run."""
    bits, rows = _Bits(), 0
    for run in bench.float_runs:
        finite = torch.isfinite(rows_of(run.x, bench.own)).all(1)
        try:
            found = bench.run_program(bench.program, run.x)
        except LoweringError as e:
            return failed("nan", f"the runtime refuses an infinity or a NaN: {e}")
        clean = torch.where(finite.reshape(*run.x.shape[: bench.own], *(1,) * (run.x.dim() - bench.own)), run.x, 0.0)
        predicted = bench.predicted(clean)
        if predicted is None:
            bounded = bench.bounded(clean)
            near = ((found.double() - bounded.exact).abs() <= bounded.bound).reshape(len(finite), -1)
            bits.elements += int(near[finite].numel())
            bits.mismatches += int((~near[finite]).sum())
        else:
            parts = (rows_of(t, bench.own)[finite] for t in (found, predicted.value, predicted.known))
            first, value, known = parts
            bits.add(first.contiguous(), Predicted(value=value.contiguous(), known=known))
        rows += int(finite.sum())
    numbers = {**bits.numbers(), "outside": bits.mismatches, "rows": rows}
    if bits.mismatches:
        message = f"{bits.mismatches} of {bits.elements} results of finite rows are others beside a row that is not"
        return failed("outside", f"{message}; {bits.worst}", numbers)
    return passed(numbers)
