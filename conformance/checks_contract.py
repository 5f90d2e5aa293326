"""C1 to C4, read off the converted graph: what is annotated is complete, legal, and shared and fused as it may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk import OpRecord, Profile
from quantizer_sdk.conformance.bench import Bench
from quantizer_sdk.conformance.corpus import MOVES
from quantizer_sdk.conformance.finding import Finding, failed, passed, short
from quantizer_sdk.conformance.kernels import Kernel, QParams, attribute, is_dequantize, is_quantize
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.scheme import Scheme

__all__ = ["claimed_is_quantized", "fusion_is_sound", "legal", "refusal", "shared_qparams_agree"]

aten = torch.ops.aten
_RELUS = frozenset({aten.relu.default, aten.relu_.default})
_WEIGHTED = ("conv", "linear", "addmm", "mm", "matmul")
_BIASED = ("conv", "linear", "addmm")


def refusal(bench: Bench) -> str | None:
    """Return why the quantizer left the subject float by a check of its own, if it did.

    In a random graph an op may also stand where no row begins with it, as an activation behind a value that has other
    readers: it is left float for want of a row, and says so. So may any op without a weight where activations are
    quantized at run time, since only gemms have kernels for that, even behind one; and an op that is only sometimes
    rewritten.
    """
    rows = {row.name for row in getattr(bench.quantizer(), "rows", ())}
    rowless = bench.scenario.subject.startswith("graph.") or bench.scenario.row.startswith("rewrite ")
    dynamic = Scheme.named(bench.scenario.scheme).dynamic
    # An op that was rewritten all the same, for another reason than to quantize it, is there by another name.
    subject = _subject(bench) or (bench.explanation.ops if bench.scenario.row.startswith("rewrite ") else ())
    for op in subject:
        reason = None if op.claimed else op.reason
        may_lack = rowless or (dynamic and not op.op.removeprefix("aten.").startswith(_WEIGHTED))
        if reason is not None and (reason.split(":")[0] in rows or (may_lack and reason.startswith("no row for"))):
            return reason
    return None


def _subject(bench: Bench) -> list[OpRecord]:
    names = {str(target) for target in bench.scenario.targets}
    return [op for op in bench.explanation.ops if op.op in names or f"{op.op}.default" in names]


def claimed_is_quantized(bench: Bench) -> Finding:
    """C1."""
    kernels = bench.kernels
    problems = [
        f"{node.name} ({node.target}) computes in float: no quantize takes its result" for node in kernels.loose
    ]
    for kernel in kernels.found:
        problems += [f"{kernel} reads the float input {node.name}, which nothing quantizes" for node in kernel.inputs]
        problems += [
            f"{kernel} reads the float constant {node.name}" for node in kernel.parameters if not _is_bias(kernel, node)
        ]
    chains = {kernel.targets for kernel in kernels.found}
    rows = getattr(bench.quantizer(), "rows", None)
    if rows is not None:
        problems += [
            f"{kernel} is no row of the table: no quantize between its ops"
            for kernel in kernels.found
            if len(kernel.ops) > 1 and not any(_fits(kernel, row.steps) for row in rows)
        ]
    problems += _torn(bench)
    numbers = {"kernels": len(kernels.found), "loose": len(kernels.loose)}
    if problems:
        return failed("float", "; ".join(problems), numbers)
    if not any(chains):
        return failed("float", f"no kernel of {bench.scenario.subject} is in the converted graph", numbers)
    return passed(numbers)


def _torn(bench: Bench) -> Iterator[str]:
    """Yield ops that the quantizer says are fused, and that a quantize parts from what they are fused into."""
    kernel_of = {op.name: kernel for kernel in bench.kernels.found for op in kernel.ops}
    for record in _subject(bench):
        kernel, whole = kernel_of.get(record.node), kernel_of.get(record.fused_into or "")
        if kernel is not None and whole is not None and kernel is not whole:
            yield f"{record.node} is said to be fused into {record.fused_into}; {kernel.output.name} parts them"


def _fits(kernel: Kernel, steps: Any) -> bool:
    """Whether a kernel's ops are those of a row; rewrites of the quantizer's may stand for their like."""
    return len(steps) == len(kernel.ops) and all(
        op.target in step.targets for op, step in zip(kernel.ops, steps, strict=True)
    )


def _is_bias(kernel: Kernel, constant: Node) -> bool:
    """Whether a constant is the bias of a kernel's op: gemms take it in float and round it themselves."""
    for op in kernel.ops:
        if constant in op.all_input_nodes:
            return _named_argument(op, constant) in {"bias", "self"} and _is_kind(op, _BIASED)
    return False


def _named_argument(op: Node, operand: Node) -> str | None:
    schema = op.target._schema  # type: ignore[union-attr]
    names = [argument.name for argument in schema.arguments]
    return next((name for name, value in zip(names, op.args, strict=False) if value is operand), None)


def _is_kind(op: Node, kinds: tuple[str, ...]) -> bool:
    return str(op.target).removeprefix("aten.").startswith(kinds)


def legal(bench: Bench) -> Finding:
    """C2."""
    model, profile = bench.converted, bench.backend.profile
    problems: list[str] = []
    count = 0
    for node in model.graph.nodes:
        if is_quantize(node) or is_dequantize(node):
            qparams = QParams.of(model, node)
            count += 1
            if qparams is None:
                problems.append(f"{node.name}: {node.target} has qparams of no static kind")
            else:
                problems += _consistent(node, qparams)
                problems += _faithful(model, node, qparams)
    if profile is not None:
        for kernel in bench.kernels.found:
            problems += _accepted(bench, kernel, profile)
    numbers = {"nodes": count}
    return failed("illegal", "; ".join(problems), numbers) if problems else passed(numbers)


def _consistent(node: Node, qparams: QParams) -> Iterator[str]:
    """Yield what no backend could accept."""
    limits = torch.iinfo(qparams.dtype) if not qparams.dtype.is_floating_point else None
    if limits is None or not limits.min <= qparams.quant_min < qparams.quant_max <= limits.max:
        yield f"{node.name}: codes {qparams.quant_min}..{qparams.quant_max} do not fit {qparams.dtype}"
    if not all(0 < scale < float("inf") for scale in qparams.scales):
        yield f"{node.name}: a scale of {min(qparams.scales)}; expected positive finite ones"
    if not all(qparams.quant_min <= zero <= qparams.quant_max for zero in qparams.zero_points):
        yield (
            f"{node.name}: zero point {qparams.zero_points[0]} outside of {qparams.quant_min}..{qparams.quant_max}, so "
            "that 0.0 has no code"
        )


def _faithful(model: GraphModule, node: Node, qparams: QParams) -> Iterator[str]:
    """Yield where a dequantize reads other codes than were written."""
    source = node.args[0]
    if not is_dequantize(node) or not isinstance(source, Node):
        return
    if is_quantize(source) and QParams.of(model, source) != qparams:
        yield f"{node.name}: {_words(qparams)}, but {source.name} wrote {_words(QParams.of(model, source))}"
    if source.op == "get_attr":
        codes = attribute(model, source)
        low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (qparams.quant_min, qparams.quant_max)
        if codes.dtype is not qparams.dtype or not qparams.quant_min <= low <= high <= qparams.quant_max:
            found = f"{codes.dtype} codes {low}..{high}"
            yield f"{source.name}: {found}; {node.name} reads {qparams.dtype} {qparams.quant_min}..{qparams.quant_max}"


def _accepted(bench: Bench, kernel: Kernel, profile: Profile) -> Iterator[str]:
    """Yield what the profile does not accept of a kernel's operands and result."""
    model = bench.converted
    output = QParams.of(model, kernel.output)
    weight_of = {source: op for op in kernel.ops for source in kernel.sources if _is_weight(op, source)}
    activations, weights = [], []
    for source in kernel.sources:
        qparams = QParams.of(model, source)
        if qparams is None:
            continue
        if _is_bias(kernel, source):
            if qparams.dtype is not torch.int32:
                yield f"{source.name}: a bias of {qparams.dtype}; {profile.name} adds int32 steps, or takes floats"
            continue
        if source not in weight_of:
            activations.append(qparams)
            if qparams.axis is not None:
                yield f"{source.name}: activations with a scale for each channel; {profile.name}'s kernels take one"
            continue
        weights.append(qparams)
        op = weight_of[source]
        if qparams.dtype not in profile.weight_dtypes:
            accepted = ", ".join(map(str, sorted(profile.weight_dtypes, key=str)))
            yield f"{source.name}: weights of {qparams.dtype}; {profile.name} takes {accepted}"
        if qparams.axis is not None and not profile.per_channel:
            yield f"{source.name}: a scale for each channel; {profile.name} takes one"
        if qparams.axis is not None and qparams.axis != _output_axis(op):
            yield (
                f"{source.name}: scales along axis {qparams.axis} of the weight of {op.name}; its output channels lie "
                f"along axis {_output_axis(op)}"
            )
        if any(qparams.zero_points) and not profile.affine_weights:
            yield f"{source.name}: weights with zero point {max(qparams.zero_points, key=abs)}; kernels take 0"
    for qparams in [*activations, *([output] if output is not None else [])]:
        if qparams.dtype not in profile.activation_dtypes:
            accepted = ", ".join(map(str, sorted(profile.activation_dtypes, key=str)))
            yield f"{kernel}: activations of {qparams.dtype}; {profile.name} takes {accepted}"
    if output is not None and activations:
        yield from _ratios(kernel, activations, weights, output, profile)
        yield from _biases(bench, kernel, activations, weights)


def _is_weight(op: Node, source: Node) -> bool:
    """Whether an operand is an op's constant weight: what it multiplies, dequantized from stored codes."""
    if not _is_kind(op, _WEIGHTED) or source not in op.all_input_nodes:
        return False
    codes = source.args[0]
    return isinstance(codes, Node) and codes.op == "get_attr" and _named_argument(op, source) not in {"bias", "self"}


def _output_axis(op: Node) -> int:
    """Return the axis of a weight's output channels."""
    return 1 if "transpose" in str(op.target) or _is_kind(op, ("addmm", "mm", "matmul")) else 0


def _ratios(
    kernel: Kernel, activations: list[QParams], weights: list[QParams], output: QParams, profile: Profile
) -> Iterator[str]:
    low, high = profile.requantization
    scales = weights[0].scales if weights else (1.0,)
    for scale in (min(scales), max(scales)):
        for activation in activations:
            ratio = activation.scales[0] * scale / output.scales[0]
            if not low < ratio < high:
                yield f"{kernel}: requantization by {ratio:.3g}; {profile.name} takes {low:.3g} to {high:.3g}"
                return


def _biases(bench: Bench, kernel: Kernel, activations: list[QParams], weights: list[QParams]) -> Iterator[str]:
    """Yield integer biases whose scale is not that of the accumulator."""
    for source in kernel.sources:
        bias = QParams.of(bench.converted, source)
        if bias is None or bias.dtype is not torch.int32 or not weights:
            continue
        wanted = [activations[0].scales[0] * scale for scale in weights[0].scales]
        found = bias.scales if len(bias.scales) == len(wanted) else bias.scales * len(wanted)
        if any(abs(f - w) > 1e-6 * w for f, w in zip(found, wanted, strict=False)):
            yield f"{source.name}: bias scale {found[0]:.6g}; the accumulator's is {wanted[0]:.6g}"


def shared_qparams_agree(bench: Bench) -> Finding:
    """C3."""
    model = bench.converted
    moving = [kernel for kernel in bench.kernels.found if kernel.ops and set(kernel.targets) <= MOVES]
    problems: list[str] = []
    for kernel in moving:
        output = QParams.of(model, kernel.output)
        problems += [
            f"{kernel}: {source.name} has {_words(QParams.of(model, source))}, the result {_words(output)}; an op that "
            "only moves codes has one scale and zero point for all"
            for source in kernel.sources
            if QParams.of(model, source) != output
        ]
    requantized = [kernel for kernel in bench.kernels.found if not kernel.ops]
    problems += [f"{kernel}: a tensor is requantized where nothing is computed" for kernel in requantized]
    numbers = {"moving": len(moving)}
    return failed("unshared", "; ".join(problems), numbers) if problems else passed(numbers)


def _words(qparams: QParams | None) -> str:
    return "none" if qparams is None else f"scale {qparams.scales[0]:.6g}, zero point {qparams.zero_points[0]}"


def fusion_is_sound(bench: Bench) -> Finding:
    """C4."""
    problems = []
    profile = bench.backend.profile
    for kernel in bench.kernels.found:
        inner = set(kernel.ops)
        for op in kernel.ops:
            outside = [user for user in op.users if user not in inner and user is not kernel.output]
            if len(op.users) > 1 and (outside or len(kernel.ops) > 1):
                names = ", ".join(user.name for user in op.users)
                problems.append(f"{op.name} is fused into {kernel} and read by {names}: each needs its quantized value")
        output = QParams.of(bench.converted, kernel.output)
        relu = len(kernel.ops) > 1 and kernel.targets[-1] in _RELUS
        if profile is not None and profile.relu_at_quant_min and relu and output is not None:
            zero, low = output.zero_points[0], output.quant_min
            if zero != low:
                problems.append(f"{kernel}: zero point {zero} behind a relu that only the range's end {low} computes")
    numbers = {"kernels": len(bench.kernels.found)}
    if problems:
        return failed("unsound", "; ".join(problems), numbers)
    if bench.scenario.data == "two_users" and len(bench.kernels.found) < bench.scenario.length:
        loose = ", ".join(node.name for node in bench.kernels.loose)
        return short(Status.UNSUPPORTED, "float", f"left float: {loose}", numbers)
    return passed(numbers)
