"""K1 to K7: the real kernels' raw integers against the profile's arithmetic and against the exact codes.

Every op is judged on the codes that the kernels really had before it, so that a tie decided the other way does not go
on to the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantizer_sdk.backend import Executable
from quantizer_sdk.conformance.bench import Bench, export, leaves, named_codes, quantize, tap
from quantizer_sdk.conformance.comparison import Comparison
from quantizer_sdk.conformance.emulator import emulate
from quantizer_sdk.conformance.finding import Finding, does_not_apply, failed, passed, short
from quantizer_sdk.conformance.oracle import run_oracle
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.relations import batch_size
from quantizer_sdk.errors import LoweringError
from quantizer_sdk.profile import Family

__all__ = ["bit_exact", "dynamic_batch", "near_ties", "no_saturation", "nonfinite", "ties", "within_bounds"]


def bit_exact(bench: Bench) -> Finding:
    """K1."""
    profile = bench.backend.profile
    if profile is None:
        return short(Status.UNKNOWN, "no profile", "the backend has no profile, so no bits are predicted")
    differing = elements = largest = 0
    worst = ""
    for run, codes in zip(bench.runs, bench.kernel_codes, strict=True):
        for site in bench.oracle(run, codes).sites:
            wanted = emulate(site, profile, codes[site.node])
            if wanted is None:
                family = site.value.family.value
                message = f"profile {profile.name!r} does not say how {site.node} ({family}) rounds"
                return short(Status.UNKNOWN, "no arithmetic", message)
            error = codes[site.node].to(torch.int64) - wanted
            elements += error.numel()
            differing += int((error != 0).sum())
            if error.numel() and int(error.abs().max()) > largest:
                largest = int(error.abs().max())
                place = int(error.abs().argmax())
                found, predicted = int(codes[site.node].flatten()[place]), int(wanted.flatten()[place])
                r = float(site.requantized.r.flatten()[place])
                worst = f"; {site.node}[{place}] is {found}, predicted {predicted}, r = {r:.9g}"
    numbers = {"elements": elements, "mismatches": differing, "allowed": 0, "max_lsb": largest}
    if differing:
        message = f"{differing} of {elements} codes are not what profile {profile.name!r} predicts{worst}"
        return failed("bits", message, numbers)
    return passed(numbers)


def _compared(bench: Bench) -> Comparison:
    comparison = Comparison()
    for run, codes in zip(bench.runs, bench.kernel_codes, strict=True):
        for site in bench.oracle(run, codes).sites:
            comparison.add(site.node, codes[site.node], site.requantized, site.kernel_delta)
    return comparison


def within_bounds(bench: Bench) -> Finding:
    """K5, K6, K7: no code further from the exact one than the kernel's arithmetic explains."""
    if bench.scenario.data == "dynamic_batch":
        return dynamic_batch(bench)
    if bench.scenario.data == "nonfinite":
        return nonfinite(bench)
    try:
        comparison = _compared(bench)
    except LoweringError as e:
        if bench.scenario.data in {"extreme_up", "extreme_down"}:
            return failed("refused", f"the runtime refuses a ratio that its profile accepts: {e}")
        raise
    numbers = comparison.numbers()
    if comparison.outside:
        return failed("outside", f"the kernel leaves the exact codes: {comparison}", numbers)
    if comparison.vacuous is not None:
        return short(Status.MISTRUSTED, "uninformative", comparison.vacuous, numbers)
    return passed(numbers)


def near_ties(bench: Bench) -> Finding:
    """K2."""
    comparison = _compared(bench)
    numbers = {**comparison.numbers(), "allowed": comparison.allowed}
    if comparison.outside:
        return failed("outside", f"the kernel leaves the exact codes: {comparison}", numbers)
    surprising = comparison.mismatches > comparison.allowed or comparison.biased
    if surprising and bit_exact(bench).status is Status.PASS:
        # One scale is nearly a multiple of another: ties are dense there, and no chance decides them.
        return passed({**numbers, "allowed": comparison.near_tie})
    if comparison.mismatches > comparison.allowed:
        message = f"{comparison}; chance explains {comparison.allowed} near ties"
        return failed("too often", message, numbers)
    if comparison.biased:
        return failed("bias", f"{comparison}; they go one way: z = {comparison.z:.1f}", numbers)
    if comparison.mistrusted is not None:
        return short(Status.MISTRUSTED, "uninformative", comparison.mistrusted, numbers)
    return passed(numbers)


def ties(bench: Bench) -> Finding:
    """K3."""
    comparison = Comparison()
    predicted = otherwise = 0
    curved = False
    for run, codes in zip(bench.runs, bench.kernel_codes, strict=True):
        for site in bench.oracle(run, codes).sites:
            comparison.add(site.node, codes[site.node], site.requantized, site.kernel_delta)
            curved |= site.value.family in {Family.TABLE, Family.DOT_TABLE}
            profile = bench.backend.profile
            wanted = None if profile is None else emulate(site, profile, codes[site.node])
            if wanted is not None:
                tie = site.requantized.half_distance == 0
                predicted += int(tie.sum())
                otherwise += int((tie & (codes[site.node].to(torch.int64) != wanted)).sum())
    numbers = {**comparison.numbers(), "decided_otherwise": otherwise}
    if comparison.outside:
        return failed("outside", f"the kernel leaves the exact codes on ties: {comparison}", numbers)
    if otherwise:
        message = f"{otherwise} of {predicted} ties go another way than the profile says"
        return failed("rounds otherwise", message, numbers)
    moves = all(not kernel.ops or str(kernel.targets[0]) in _EXACT for kernel in bench.kernels.found)
    if not comparison.ties and not moves and not curved and comparison.elements >= _ENOUGH_FOR_TIES:
        return short(Status.MISTRUSTED, "no ties", f"none of {comparison.elements} results is a tie", numbers)
    if comparison.mistrusted is not None:
        return short(Status.MISTRUSTED, "uninformative", comparison.mistrusted, numbers)
    return passed(numbers)


_EXACT = frozenset({"aten.relu.default", "aten.relu_.default"})
_ENOUGH_FOR_TIES = 10_000


def no_saturation(bench: Bench) -> Finding:
    """K4: on this machine's instruction set, and on those that the runner can be made to use."""
    comparison = _compared(bench)
    numbers = comparison.numbers()
    if comparison.outside:
        return failed("saturates", f"largest accumulators give other codes: {comparison}", numbers)
    if comparison.vacuous is not None:
        return short(Status.MISTRUSTED, "uninformative", comparison.vacuous, numbers)
    runner = bench.backend.runner
    for variant in runner.variants if runner is not None else ():
        if variant.axis != "isa":
            continue
        executable = variant.lower(bench.tapped, list(bench.batches[0]), integer_io=True)
        other = Comparison()
        for run, outputs in zip(bench.runs, _run_all(executable, [run.codes for run in bench.runs]), strict=True):
            codes = bench.named(outputs)
            for site in bench.oracle(run, codes).sites:
                other.add(site.node, codes[site.node], site.requantized, site.kernel_delta)
        numbers[variant.name] = other.outside
        if other.outside:
            return failed("saturates", f"{variant.name}: largest accumulators give other codes: {other}", numbers)
    return passed(numbers)


def _run_all(executable: Executable, inputs: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
    """Run all inputs, in one process where the executable offers that."""
    together = getattr(executable, "run_many", None)
    if together is not None:
        found: list[tuple[Tensor, ...]] = together([tuple(codes) for codes in inputs])
        return found
    return [executable.run(*codes) for codes in inputs]


def dynamic_batch(bench: Bench) -> Finding:
    """K5 of a program whose batch size is open: it computes each size as the graph of that size does."""
    shapes = bench.scenario.program.inputs
    if batch_size(bench.scenario.program) is None:
        return does_not_apply("no common batch axis of size 2 or more")
    batch = torch.export.Dim("batch", min=2, max=7)
    dynamic = tuple({0: batch} for _ in shapes)
    try:
        model = export(bench.module, bench.batches[0], dynamic_shapes=(dynamic,))
    except Exception as e:  # noqa: BLE001  # whatever the exporter raises, it is the model's shape that it refuses
        words = str(e).splitlines()[0] if str(e) else type(e).__name__
        return short(Status.UNSUPPORTED, "not exportable", f"torch.export refuses an open batch size: {words}")
    converted = quantize(model, bench.quantizer(), bench.batches, "generic")
    executable = bench.backend.lower(tap(converted), list(bench.batches[0]), dynamic_shapes=dynamic, integer_io=True)
    comparison = Comparison()
    for size in (2, 7, 3):
        codes = [_resized(tensor, size) for tensor in bench.runs[0].codes]
        found = named_codes(converted, executable.run(*codes))
        for site in run_oracle(converted, codes, bench.backend.profile, found).sites:
            comparison.add(site.node, found[site.node], site.requantized, site.kernel_delta)
    numbers = comparison.numbers()
    if comparison.outside:
        return failed("outside", f"with an open batch size: {comparison}", numbers)
    return passed(numbers)


def _resized(codes: Tensor, size: int) -> Tensor:
    return codes.repeat(-(-size // codes.shape[0]), *(1,) * (codes.dim() - 1))[:size].contiguous()


def nonfinite(bench: Bench) -> Finding:
    """K7 on float inputs: infinities go to the ends of the range as in the graph; NaN does not crash."""
    inputs = [tensor.clone() for tensor in bench.batches[0]]
    for tensor in inputs:
        flat = tensor.view(-1) if tensor.is_contiguous() else tensor.reshape(-1)
        flat[: min(2, flat.numel())] = torch.tensor([float("inf"), float("-inf")])[: min(2, flat.numel())]
    executable = bench.backend.lower(bench.converted, list(bench.batches[0]))
    found = executable.run(*inputs)
    with torch.no_grad():
        wanted = list(leaves(bench.converted(*inputs)))
    codes = [
        torch.ops.quantized_decomposed.quantize_per_tensor.default(tensor, *node.args[1:])
        for tensor, node in zip(inputs, bench.input_quantizes, strict=True)
    ]
    sites = bench.oracle(bench.run_on(codes)).outputs
    differing = outside = elements = 0
    for actual, expected, site in zip(found, wanted, sites, strict=True):
        step = float(site.requantized.scale)
        elements += actual.numel()
        steps = ((actual - expected).double() / step).round().abs()
        differing += int((steps > 0).sum())
        near = site.requantized.half_distance <= site.kernel_delta.clamp(min=float(site.graph_delta.max()))
        outside += int((~torch.isfinite(actual) | ((steps > 0) & ~((steps <= 1) & near))).sum())
    numbers = {"elements": elements, "mismatches": differing, "outside": outside}
    if outside:
        return failed("outside", f"{outside} of {elements} results on infinite inputs are not the graph's", numbers)
    for tensor in inputs:
        tensor.view(-1)[:1] = float("nan")
    try:
        executable.run(*inputs)
    except LoweringError as e:
        return failed("nan", f"the runtime refuses a NaN: {e}", numbers)
    return passed(numbers)
