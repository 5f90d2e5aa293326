"""C1, C2, C4, E2, D1 and D2 of gemms that quantize their activation at run time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from quantizer_sdk.conformance.bench import Bench, leaves, quantize
from quantizer_sdk.conformance.dynamic_bench import DynamicBench
from quantizer_sdk.conformance.dynamic_gemms import DynamicGemm, computing, dynamic_gemms
from quantizer_sdk.conformance.dynamic_weights import StoredWeight
from quantizer_sdk.conformance.exports import FACTORS, exported_otherwise, exported_twice
from quantizer_sdk.conformance.finding import Finding, failed, passed, short
from quantizer_sdk.conformance.kernels import is_quantize
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.scheme import Scheme
from quantizer_sdk.errors import GraphError, NothingAnnotatedError

__all__ = ["claimed_is_quantized", "fusion_is_sound", "legal", "only_integers", "other_exports_agree", "runs"]


def claimed_is_quantized(bench: Bench) -> Finding:
    """C1."""
    model = bench.converted
    gemms = dynamic_gemms(model)
    inside = {node for gemm in gemms for node in (gemm.node, *gemm.clamps)}
    problems = [
        f"{node.name} ({node.target}) computes in float: it is no gemm of an activation quantized at run time"
        for node in computing(model)
        if node not in inside
    ]
    static = [node.name for node in model.graph.nodes if is_quantize(node)]
    problems += [
        f"{name} has qparams from calibration; {bench.scenario.scheme} chooses them at run time" for name in static
    ]
    rows = getattr(bench.quantizer(), "rows", None)
    if rows is not None:
        problems += [
            f"{gemm.node.name} with what follows it is no row of the table"
            for gemm in gemms
            if gemm.clamps and not any(_fits(gemm, row.steps) for row in rows)
        ]
    numbers = {"kernels": len(gemms)}
    if problems:
        return failed("float", "; ".join(problems), numbers)
    if not gemms:
        return failed("float", f"no gemm of {bench.scenario.subject} quantizes its activation at run time", numbers)
    return passed(numbers)


def _fits(gemm: DynamicGemm, steps: object) -> bool:
    listed = list(steps)  # type: ignore[call-overload]
    return len(listed) == len(gemm.targets) and all(
        target in step.targets for target, step in zip(gemm.targets, listed, strict=True)
    )


def legal(bench: Bench) -> Finding:
    """C2."""
    gemms = dynamic_gemms(bench.converted)
    problems = [problem for gemm in gemms for problem in _illegal(bench, gemm)]
    numbers = {"kernels": len(gemms)}
    if problems:
        return failed("illegal", "; ".join(problems), numbers)
    if not gemms:
        return short(Status.UNKNOWN, "graph", "no gemm quantizes its activation at run time", numbers)
    return passed(numbers)


def _illegal(bench: Bench, gemm: DynamicGemm) -> Iterator[str]:
    scheme, profile = Scheme.named(bench.scenario.scheme), bench.backend.profile
    if profile is not None and profile.dynamic is not None:
        rank = len(bench.scenario.program.inputs[0])
        wanted: tuple[int, ...] = (0,)
        if gemm.is_linear:
            wanted = tuple(range(rank - 1))
        elif profile.dynamic.pointwise_rows and gemm.is_pointwise(bench.converted):
            wanted = (0, *range(2, rank))
        if gemm.own_axes(rank) != wanted:
            words = f"{profile.name}'s kernel chooses them for each index of axes {', '.join(map(str, wanted))}"
            yield f"{gemm.choose.name}: qparams of other blocks; {words}"
    if "symmetric" in str(gemm.choose.target) and "asymmetric" not in str(gemm.choose.target):
        yield f"{gemm.choose.name}: symmetric qparams; kernels choose affine ones"
    low, high = gemm.code_range
    if (low, high) != (-128, 127):
        yield f"{gemm.quantize.name}: codes {low}..{high}; kernels use all of -128..127"
    weight = StoredWeight.of(bench.converted, gemm.weight)
    name = gemm.weight.name
    if not bool((torch.isfinite(weight.scales) & (weight.scales > 0)).all()):
        yield f"{name}: a scale of {float(weight.scales.min())}; expected positive finite ones"
    if bool(weight.zero_points.any()) and not (profile is not None and profile.affine_weights):
        yield f"{name}: weights with zero point {int(weight.zero_points.abs().max())}; kernels take 0"
    if profile is not None and weight.dtype not in profile.weight_dtypes:
        yield f"{name}: weights of {weight.dtype}; {profile.name} takes {', '.join(map(str, profile.weight_dtypes))}"
    limit = 2 ** (scheme.weight_bits - 1)
    ends = (weight.quant_min, weight.quant_max)
    if not (-limit <= ends[0] < 0 < ends[1] <= limit - 1) or (ends[1] + 1) * 2 <= limit:
        yield f"{name}: codes {ends[0]}..{ends[1]}; {bench.scenario.scheme} says {scheme.weight_bits} bits"
    found = int(weight.codes.min()), int(weight.codes.max())
    if not ends[0] <= found[0] <= found[1] <= ends[1]:
        yield f"{name}: stored codes {found[0]}..{found[1]} leave {ends[0]}..{ends[1]}"
    if weight.axis is not None and weight.axis != gemm.weight_axis:
        yield f"{name}: scales along axis {weight.axis}; output channels lie along axis {gemm.weight_axis}"
    dynamic = profile.dynamic if profile is not None else None
    if weight.group is not None and dynamic is not None:
        stored = weight.scales.to(dynamic.group_scales).to(torch.float32)
        if not torch.equal(stored, weight.scales):
            yield f"{name}: scales of groups that {dynamic.group_scales} rounds, in which kernels have them"
    if weight.group != scheme.group:
        yield f"{name}: groups of {weight.group}; {bench.scenario.scheme} says {scheme.group}"


def fusion_is_sound(bench: Bench) -> Finding:
    """C4."""
    gemms = dynamic_gemms(bench.converted)
    problems = [
        f"{node.name} is fused with what follows and read by {', '.join(user.name for user in node.users)}"
        for gemm in gemms
        for node in (gemm.node, *gemm.clamps)[:-1]
        if len(node.users) > 1
    ]
    return failed("unsound", "; ".join(problems)) if problems else passed({"kernels": len(gemms)})


def other_exports_agree(bench: Bench) -> Finding:
    """E2."""
    plain = dynamic_gemms(bench.converted)
    twice = bench.scenario.data == "called_twice"
    try:
        model = exported_twice(bench) if twice else exported_otherwise(bench)
        if isinstance(model, Finding):
            return model
        other = quantize(model, bench.quantizer(), bench.batches, "generic")
    except NothingAnnotatedError as e:
        return failed("structure", f"nothing is quantized; exported plainly, {len(plain)} gemms are: {e}")
    wanted = len(plain) * (len(FACTORS) if twice else 1)
    numbers = {"kernels": len(plain), "other": len(dynamic_gemms(other))}
    if numbers["other"] != wanted:
        return failed("structure", f"{numbers['other']} gemms quantize at run time; expected {wanted}", numbers)
    batch = bench.batches[0]
    with torch.no_grad():
        found = list(leaves(other(*batch)))
        factors = FACTORS if twice else (1.0,)
        expected = [leaf for factor in factors for leaf in leaves(bench.converted(*[x * factor for x in batch]))]
    numbers["differing"] = sum(int((a != b).sum()) for a, b in zip(found, expected, strict=True))
    if numbers["differing"]:
        return failed("numbers", f"{numbers['differing']} elements differ from those of the plain export", numbers)
    return passed(numbers)


def runs(bench: DynamicBench) -> Finding:
    """D1."""
    inputs, program = bench.float_runs, bench.program
    try:
        results = bench.results
    except GraphError as e:
        return failed("outputs", str(e), {"runs": len(inputs)})
    x = inputs[0].x.clone()
    (again,) = leaves(program.run(x))
    if not torch.equal(x, inputs[0].x):
        return failed("inputs changed", "a run overwrites its inputs", {"runs": len(inputs)})
    differing = int((again != results[0]).sum())
    if differing:
        message = f"{differing} results are others when the same input is run again"
        return failed("not repeatable", message, {"runs": len(inputs)})
    return passed({"outputs": 1, "bytes": program.size})


def only_integers(bench: DynamicBench) -> Finding:
    """D2."""
    kernels = bench.program.kernels()
    left = bench.program.delegation().non_delegated
    gemms = [kernel for kernel in kernels if kernel.multiplies]
    floats = [
        f"{kernel.name}({' '.join(kernel.inputs)})"
        for kernel in kernels
        if not (kernel.integer or kernel.conversion or kernel.moves or kernel in gemms)
    ]
    numbers = {"kernels": [kernel.name for kernel in kernels], "float": floats, "left": list(left)}
    wanted = len(dynamic_gemms(bench.converted))
    if floats or left:
        words = [f"float kernels {', '.join(floats)}"] if floats else []
        words += [f"left to the portable runtime: {', '.join(left)}"] if left else []
        return failed("float island", "; ".join(words), numbers)
    if len(gemms) != wanted:
        message = f"{len(gemms)} kernels take an activation that is quantized at run time; expected {wanted}"
        return failed("nothing ran", message, numbers)
    return passed(numbers)
