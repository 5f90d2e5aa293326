"""R1 to R7: the q/dq graph is what its qparams say, and as close to the float model as its bits allow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule

from quantizer_sdk.conformance.baseline import DEFICIT_DB, Closeness, baseline_codes
from quantizer_sdk.conformance.bench import Bench, computed_quantizes, export, graph_codes, leaves, quantize
from quantizer_sdk.conformance.comparison import Comparison
from quantizer_sdk.conformance.finding import Finding, does_not_apply, failed, passed, short
from quantizer_sdk.conformance.kernels import QParams, is_quantize
from quantizer_sdk.conformance.outcome import Status
from quantizer_sdk.conformance.relations import batch_size, close, grows_with_inputs, output_channels, parameter_power
from quantizer_sdk.conformance.scheme import Scheme
from quantizer_sdk.conformance.tensor_noise import tensor_noise
from quantizer_sdk.errors import GraphError

__all__ = [
    "batch_splits",
    "channels_permute",
    "close_to_float",
    "graph_is_exact",
    "requantizing_changes_nothing",
    "scales_with_its_inputs",
    "zero_has_a_code",
]

_BATCHES = 6
_FACTOR = 4.0


def graph_is_exact(bench: Bench) -> Finding:
    """R1."""
    comparison = Comparison()
    for run in bench.runs:
        for site in bench.oracle(run, run.graph).sites:
            comparison.add(site.node, run.graph[site.node], site.requantized, site.graph_delta)
    numbers = comparison.numbers()
    if comparison.outside:
        return failed("outside", f"the q/dq graph is not what its qparams say: {comparison}", numbers)
    if comparison.vacuous is not None:
        return short(Status.MISTRUSTED, "uninformative", comparison.vacuous, numbers)
    return passed(numbers)


def close_to_float(bench: Bench) -> Finding:
    """R2."""
    closeness, batches = Closeness(), bench.batches
    for batch in batches:
        with torch.no_grad():
            wanted = list(leaves(bench.module(*[tensor.clone() for tensor in batch])))
            ours = list(leaves(bench.converted(*batch)))
        plain = baseline_codes(bench.module, batches, batch, Scheme.named(bench.scenario.scheme).weight_bits)
        for results in zip(wanted, ours, plain, strict=True):
            closeness.add(*results)
    numbers = closeness.numbers()
    if closeness.signal == 0.0:
        return short(Status.MISTRUSTED, "constant", "the float model's results are all zero", numbers)
    if closeness.falls_short:
        message = f"{closeness.sqnr_db:.1f} dB against the float model; plain min-max of 8 bits reaches "
        return failed("deficit", f"{message}{closeness.baseline_db:.1f} dB", numbers)
    tensors = list(tensor_noise(bench))
    worst = max(tensors, key=lambda tensor: tensor.deficit - tensor.slack, default=None)
    if worst is not None and worst.noise:
        numbers["worst_tensor_db"] = round(worst.deficit, 2)
        allowed = DEFICIT_DB + worst.slack
        if worst.deficit > allowed:
            message = (
                f"{worst.where}: rounding its {worst.values} numbers alone costs {worst.deficit:.1f} dB more than "
                f"plain min-max of 8 bits; {allowed:.1f} dB is allowed"
            )
            return failed("deficit", message, numbers)
    return passed(numbers)


def requantizing_changes_nothing(bench: Bench) -> Finding:
    """R3."""
    seen = 0
    for node in bench.converted.graph.nodes:
        if not is_quantize(node):
            continue
        scale, zero_point, low, high, dtype = node.args[1:6]
        codes = torch.arange(low, high + 1).to(dtype)
        ops = torch.ops.quantized_decomposed
        real = ops.dequantize_per_tensor.default(codes, scale, zero_point, low, high, dtype)
        back = ops.quantize_per_tensor.default(real, scale, zero_point, low, high, dtype)
        seen += codes.numel()
        if not torch.equal(back, codes):
            differing = int((back != codes).sum())
            return failed(
                "not idempotent", f"{node.name}: {differing} of {codes.numel()} codes change when requantized"
            )
    return passed({"codes": seen})


def zero_has_a_code(bench: Bench) -> Finding:
    """R7."""
    zeros = [torch.zeros(shape) for shape in bench.scenario.program.inputs]
    codes: list[Tensor] = []
    for node in bench.input_quantizes:
        zero_point = int(str(node.args[2]))
        codes.append(torch.ops.quantized_decomposed.quantize_per_tensor.default(zeros[len(codes)], *node.args[1:]))
        if bool((codes[-1].to(torch.int64) - zero_point).any()):
            return failed("zero moved", f"{node.name}: 0.0 becomes {int(codes[-1].flatten()[0])}, not {zero_point}")
    for node in computed_quantizes(bench.converted):
        qparams = QParams.of(bench.converted, node)
        if qparams is not None and not qparams.quant_min <= qparams.zero_points[0] <= qparams.quant_max:
            return failed("zero moved", f"{node.name}: 0.0 has no code: zero point {qparams.zero_points[0]}")
    return passed({"inputs": len(codes)})


def scales_with_its_inputs(bench: Bench) -> Finding:
    """R4."""
    if not grows_with_inputs(bench.scenario.program):
        return does_not_apply("its result does not grow with its inputs")
    scaled = bench.scenario.program.module(
        bench.seed, lambda place, value: value * _FACTOR ** parameter_power(bench.scenario.program, place)
    )
    batches = [tuple(tensor * _FACTOR for tensor in batch) for batch in bench.batches]
    other = quantize(export(scaled, batches[0]), bench.quantizer(), batches, bench.scenario.data)
    names = [node.name for node in computed_quantizes(bench.converted)]
    if len(names) != len(computed_quantizes(other)):
        return failed("structure", f"with inputs {_FACTOR:g} times as large other ops are quantized")
    differing = elements = 0
    for run in bench.runs[:2]:
        found = list(graph_codes(other, run.codes).values())
        for name, codes in zip(names, found, strict=True):
            differing += int((codes != run.graph[name]).sum())
            elements += codes.numel()
    numbers = {"elements": elements, "differing": differing}
    if differing:
        message = f"{differing} of {elements} codes change when inputs and bias grow {_FACTOR:g} times"
        return failed("not scale free", message, numbers)
    return passed(numbers)


def channels_permute(bench: Bench) -> Finding:
    """R5."""
    program = bench.scenario.program
    found = output_channels(program, bench.scenario.length)
    if found is None:
        return does_not_apply("it has no output channels of its own to permute")
    axes, channels, out_axis = found
    order = _disorder(channels)
    module = program.module(
        bench.seed, lambda place, value: value.index_select(axes[place], order) if place in axes else value
    )
    other = quantize(export(module, bench.batches[0]), bench.quantizer(), bench.batches, bench.scenario.data)
    name, other_name = (_last_quantize(model) for model in (bench.converted, other))
    outside = differing = elements = 0
    for run in bench.runs[:2]:
        codes = graph_codes(other, run.codes)[other_name]
        wanted = run.graph[name].index_select(out_axis, order)
        site = next(site for site in bench.oracle(run, run.graph).sites if site.node == name)
        near = (site.requantized.half_distance <= site.graph_delta).index_select(out_axis, order)
        elements += codes.numel()
        differing += int((codes != wanted).sum())
        outside += int(((codes != wanted) & ~near).sum())
    numbers = {"elements": elements, "differing": differing, "outside": outside}
    if outside:
        return failed("order matters", f"{outside} codes change beyond ties when output channels are permuted", numbers)
    return passed(numbers)


def _last_quantize(model: GraphModule) -> str:
    names = [node.name for node in computed_quantizes(model)]
    if not names:
        raise GraphError("no computed value is quantized; expected the subject's result")
    return names[-1]


def _disorder(channels: int) -> Tensor:
    """Return a permutation that commutes neither with a shift nor with a reversal, where there are channels enough.

    A quantizer that takes each channel's neighbour for it would be right under a shift.
    """
    order = torch.arange(channels).roll(1)
    return torch.cat([order[:2].flip(0), order[2:]]) if channels > 3 else order


def batch_splits(bench: Bench) -> Finding:
    """R6."""
    if batch_size(bench.scenario.program) is None:
        return does_not_apply("its inputs have no common batch axis of size 2 or more")
    first = tuple(tensor[:1] for tensor in bench.batches[0])
    try:
        with torch.no_grad():
            alone = list(leaves(bench.module(*[tensor.clone() for tensor in first])))
            whole = list(leaves(bench.module(*[tensor.clone() for tensor in bench.batches[0]])))
    except RuntimeError:
        return does_not_apply("the float model takes no other batch size")
    if any(a.shape != b[:1].shape or not close(a, b[:1]) for a, b in zip(alone, whole, strict=True)):
        return does_not_apply("the float model mixes the elements of a batch")
    outside = elements = 0
    for run in bench.runs[:2]:
        part = graph_codes(bench.converted, [codes[:1] for codes in run.codes])
        for site in bench.oracle(run, run.graph).sites:
            codes, wanted = part[site.node], run.graph[site.node][:1]
            near = (site.requantized.half_distance <= site.graph_delta)[:1]
            elements += codes.numel()
            outside += int(((codes != wanted) & ~near).sum())
    numbers = {"elements": elements, "outside": outside}
    if outside:
        return failed("batch matters", f"{outside} codes of an element depend on the rest of its batch", numbers)
    return passed(numbers)
