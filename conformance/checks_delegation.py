"""D1 to D4: the quantized model lowers, loads and runs, on integer kernels alone, with the optimizer on or off."""

from __future__ import annotations

import torch

from quantizer_sdk.conformance.bench import Bench
from quantizer_sdk.conformance.finding import Finding, failed, passed, short
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.errors import GraphError

__all__ = ["latency", "only_integers", "optimizer_changes_nothing", "runs"]

_TIMED = 20


def runs(bench: Bench) -> Finding:
    """D1."""
    runs, executable = bench.runs, bench.executable  # what the graph itself lacks is no fault of the runtime
    try:
        outputs = bench.kernel_codes[0]
    except GraphError as e:
        return failed("outputs", str(e), {"runs": len(runs)})
    inputs = [tensor.clone() for tensor in runs[0].codes]
    again = bench.named(executable.run(*inputs))
    if not all(map(torch.equal, inputs, runs[0].codes)):
        return failed("inputs changed", "a run overwrites its inputs", {"runs": len(runs)})
    differing = sum(int((again[name] != codes).sum()) for name, codes in outputs.items())
    if differing:
        message = f"{differing} codes are others when the same inputs are run again"
        return failed("not repeatable", message, {"runs": len(runs)})
    return passed({"outputs": len(outputs), "bytes": executable.size})


def only_integers(bench: Bench) -> Finding:
    """D2."""
    kernels = bench.executable.kernels()
    left = bench.executable.delegation().non_delegated
    floats = [f"{kernel.name}({' '.join(kernel.inputs)})" for kernel in kernels if not kernel.integer]
    numbers = {"kernels": [kernel.name for kernel in kernels], "float": floats, "left": list(left)}
    if floats or left:
        words = [f"float kernels {', '.join(floats)}"] if floats else []
        words += [f"left to the portable runtime: {', '.join(left)}"] if left else []
        return failed("float island", "; ".join(words), numbers)
    if not kernels:
        return failed("nothing ran", "the lowered program names no kernel", numbers)
    return passed(numbers)


def optimizer_changes_nothing(bench: Bench) -> Finding:
    """D3."""
    runner = bench.backend.runner
    variants = [variant for variant in (runner.variants if runner else ()) if variant.axis == "optimizer"]
    if not variants:
        return short(Status.UNSUPPORTED, "no variant", "the runner knows no other setting of its optimizer")
    numbers: dict[str, int] = {}
    for variant in variants:
        executable = variant.lower(bench.tapped, list(bench.batches[0]), integer_io=True)
        outside = 0
        for run, ours in zip(bench.runs, bench.kernel_codes, strict=True):
            theirs = bench.run_kernels(executable, run.codes)
            # Each is judged on its own codes before: where both may stand on either side of a tie, both are right.
            for site, other in zip(bench.oracle(run, ours).sites, bench.oracle(run, theirs).sites, strict=True):
                same_inputs = torch.equal(site.requantized.r, other.requantized.r)
                near = site.requantized.half_distance <= torch.maximum(site.kernel_delta, site.graph_delta)
                differs = ours[site.node] != theirs[site.node]
                outside += int((differs & ~near).sum()) if same_inputs else 0
        numbers[variant.name] = outside
        if outside:
            message = f"{variant.name}: {outside} codes are others, and no tie is near"
            return failed("optimizer", message, numbers)
    return passed(numbers)


def latency(bench: Bench) -> Finding:
    """D4: nothing is judged; the case's time is that of some runs, without making the program."""
    codes = bench.runs[0].codes
    for _ in range(_TIMED):
        bench.executable.run(*codes)
    return passed({"runs": _TIMED})
