"""R1, R2 and R6 of gemms that quantize their activation at run time: the eager graph against the rule.

Each op is judged on what the graph itself had before it: qparams on the input, codes on the qparams, results on the
codes. So a zero point or a code next to a tie may be either, and nothing after it is allowed more for that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizer_sdk.conformance.baseline import Closeness, plain_dynamic
from quantizer_sdk.conformance.bench import leaves
from quantizer_sdk.conformance.dynamic_bench import DynamicBench, FloatRun
from quantizer_sdk.conformance.dynamic_bounds import Rule, trace
from quantizer_sdk.conformance.finding import Finding, does_not_apply, failed, passed, short
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.relations import batch_size
from quantizer_sdk.conformance.roundoff import gamma
from quantizer_sdk.conformance.scheme import Scheme

__all__ = ["batch_splits", "close_to_float", "graph_is_exact"]


def graph_is_exact(bench: DynamicBench) -> Finding:
    """R1."""
    counts = {"rows": 0, "codes": 0, "elements": 0, "outside": 0}
    worst, where = 0.0, ""
    for run in bench.float_runs:
        problem = _qparams(bench, run, counts) or _codes(bench, run, counts)
        if problem is not None:
            return failed("outside", problem, {**counts, "outside": 1})
        ratio, result = _results(bench, run)
        counts["elements"] += ratio.numel()
        counts["outside"] += int((ratio > 1).sum())
        if ratio.numel() and float(ratio.max()) > worst:
            worst = float(ratio.max())
            place = int(ratio.argmax())
            found = float(result.flatten()[place])
            where = f"result {place} is {found:.9g}, {worst:.3g} times as far off as float32 explains"
    numbers = {**counts, "worst": round(worst, 4)}
    if counts["outside"]:
        return failed("outside", f"the q/dq graph is not what its codes say: {where}", numbers)
    if not counts["elements"]:
        return short(Status.MISTRUSTED, "uninformative", "there are no results", numbers)
    return passed(numbers)


def _chosen(bench: DynamicBench, run: FloatRun) -> tuple[Tensor, Tensor]:
    """Return the graph's scales and zero points, float64, with as many axes as the input."""
    scale, zero_point = (value.double() for value in run.graph[bench.gemm.choose])
    if scale.dim() == run.x.dim():
        return scale, zero_point
    shape = (1,) * run.x.dim()
    return scale.reshape(shape), zero_point.reshape(shape)


def _qparams(bench: DynamicBench, run: FloatRun, counts: dict[str, int]) -> str | None:
    """Say which row's qparams are not those of the rule, but for roundings of float32."""
    rule = Rule.of(run.x, bench.own, bench.gemm.code_range, bench.gemm.smallest_scale)
    scale, zero_point = _chosen(bench, run)
    if scale.shape != rule.scale.shape:
        return f"{bench.gemm.choose.name} gives scales of shape {list(scale.shape)}, not {list(rule.scale.shape)}"
    counts["rows"] += scale.numel()
    off = ((scale - rule.scale).abs() > gamma(3) * rule.scale) & ~rule.flat
    if bool(off.any()):
        row = int(off.flatten().nonzero()[0])
        found, wanted = (float(value.flatten()[row]) for value in (scale, rule.scale))
        return f"row {row} has scale {found:.9g}; its range makes {wanted:.9g}"
    slack = gamma(5) * (rule.zero.abs() + rule.high - rule.low)
    moved = (zero_point - rule.zero).abs() > 0.5 + slack
    moved &= ~(rule.flat & (zero_point >= rule.low) & (zero_point <= rule.high))
    if bool(moved.any()):
        row = int(moved.flatten().nonzero()[0])
        found, wanted = (float(value.flatten()[row]) for value in (zero_point, rule.zero))
        return f"row {row} has zero point {found:.0f}; its range makes {wanted:.6g}"
    return None


def _codes(bench: DynamicBench, run: FloatRun, counts: dict[str, int]) -> str | None:
    """Say which code is not that of its value, given the graph's qparams: ties go either way."""
    scale, zero_point = _chosen(bench, run)
    low, high = bench.gemm.code_range
    codes = run.graph[bench.gemm.quantize].double()
    counts["codes"] += codes.numel()
    real = run.x.double() / scale
    delta = gamma(3) * (real.abs() + zero_point.abs())
    wanted = (real + zero_point).clamp(low, high)
    off = ((codes - wanted).abs() > 0.5 + delta) | (codes < low) | (codes > high)
    if bool(off.any()):
        place = int(off.flatten().nonzero()[0])
        found = f"value {place} has code {int(codes.flatten()[place])}"
        return f"{found}; its value over the scale and the zero point make {float(wanted.flatten()[place]):.6g}"
    return None


def _results(bench: DynamicBench, run: FloatRun) -> tuple[Tensor, Tensor]:
    """Return how far each result is from the exact one of the graph's codes, in units of its bound."""
    gemm = bench.gemm
    scale, zero_point = _chosen(bench, run)
    steps = run.graph[gemm.quantize].to(torch.int64) - zero_point.long()
    traced = trace(bench.converted, gemm, steps, scale)
    result = run.graph[gemm.output]
    exact = gemm.clamped(traced.exact.approximate())
    error = traced.error + 2.0**-149
    return (result.double() - exact).abs() / error, result


def close_to_float(bench: DynamicBench) -> Finding:
    """R2."""
    closeness = Closeness()
    bits = Scheme.named(bench.scenario.scheme).weight_bits
    inputs = [run.x for run in bench.float_runs]
    for x in inputs:
        with torch.no_grad():
            (wanted,) = leaves(bench.module(x.clone()))
            (ours,) = leaves(bench.converted(x.clone()))
        rows = tuple(range(x.dim() - 1)) if bench.gemm.is_linear else (0,)
        plain = plain_dynamic(bench.module, x, rows, bits)
        for row in zip(wanted.detach(), ours, plain, strict=True):
            size = float(row[0].abs().max()) or 1.0  # a row of large numbers must not hide the others
            closeness.add(*[tensor / size for tensor in row])
    numbers = closeness.numbers()
    if closeness.signal == 0.0:
        return short(Status.MISTRUSTED, "constant", "the float model's results are all zero", numbers)
    if closeness.falls_short:
        message = (
            f"{closeness.sqnr_db:.1f} dB against the float model; a plain quantizer of each row, weights of {bits} "
        )
        return failed("deficit", f"{message}bits, reaches {closeness.baseline_db:.1f} dB", numbers)
    return passed(numbers)


def batch_splits(bench: DynamicBench) -> Finding:
    """R6: the first element alone has the qparams and the codes that it has in its batch, and its results."""
    if batch_size(bench.scenario.program) is None:
        return does_not_apply("its inputs have no common batch axis of size 2 or more")
    gemm, differing, outside, elements = bench.gemm, 0, 0, 0
    for run in bench.float_runs:
        alone = bench.float_run(run.x[:1].contiguous())
        differing += int((alone.graph[gemm.quantize] != run.graph[gemm.quantize][:1]).sum())
        ratios = _results(bench, run)[0][:1], _results(bench, alone)[0]
        elements += ratios[1].numel()
        outside += sum(int((ratio > 1).sum()) for ratio in ratios)
    numbers = {"elements": elements, "outside": outside, "differing": differing}
    if differing or outside:
        return failed("batch matters", f"{differing} codes of an element depend on the rest of its batch", numbers)
    return passed(numbers)
