"""The numeric debugger: where the error of a quantized model comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from quantizer_sdk.backend import Runner
from quantizer_sdk.batches import Progress, positional_inputs, says_what_misfits
from quantizer_sdk.control_flow import graphs_of, nodes_of
from quantizer_sdk.debug.comparison import Comparison, LayerError, OutputError
from quantizer_sdk.debug.kernels import Kernels
from quantizer_sdk.debug.lockstep import Lockstep
from quantizer_sdk.debug.lockstep_run import Watch
from quantizer_sdk.debug.points import Point
from quantizer_sdk.debug.spread import SpreadWatch
from quantizer_sdk.debug.tally import Tally
from quantizer_sdk.debug.twins import is_rounding, output_leaves
from quantizer_sdk.errors import AlreadyConvertedError, AlreadyPreparedError, ComparisonError, NotPreparedError
from quantizer_sdk.model_copy import copy_model
from quantizer_sdk.passes.compose_ops import compose_ops
from quantizer_sdk.passes.inline_regions import inline_regions
from quantizer_sdk.passes.move_constants import sink_constants
from quantizer_sdk.passes.remove_guards import remove_guards
from quantizer_sdk.provenance import describe, listed, module_path, name_in, op_name, source_line
from quantizer_sdk.quantize_pt2e import convert_pt2e, tidy
from quantizer_sdk.verify import observer_calls, require_graph_module

__all__ = ["compare"]

_NOBODYS_FAULT = 1.0
"""Unused bits that symmetric codes of values of one sign have, or a range that only calibration has seen."""


@torch.no_grad()
def compare(
    reference: GraphModule,
    quantized: GraphModule,
    data: Iterable[Any],
    *,
    runner: Runner | None = None,
    blame: bool = True,
    histograms: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a quantized model with the float one, layer by layer.

    Both run side by side, op by op, and every value goes as soon as nobody reads it: the memory is that of the
    values that are alive at one place of both, whatever the number of layers and batches.

    Args:
        reference: The exported float model. It is left as it is, and so is the other.
        quantized: What `prepare_pt2e` made of it and calibration data went through, or `prepare_qat_pt2e`, or
            `convert_pt2e`: all of them are compared with the rounding that `convert_pt2e` gives them.
        data: One element a run: a tensor, a tuple of positional inputs, or a dict of inputs by name.
        runner: Runs the quantized model on its kernels: a layer's error is then that of what they compute, its own
            error still that of the q/dq graph. The rounded values become outputs of the program.
        blame: Whether each layer's own error is measured too, which costs one more run.
        histograms: Whether to keep how the values of each layer lie, for `plot_histograms` and `plot_channels`.
        progress: Wraps the data to show progress, such as `tqdm.tqdm`.

    Raises:
        ComparisonError: The models are no twins, their outputs differ in structure, or there is no data.
        NotExportedError: A model is no graph module.
        NotPreparedError: The quantized model is float.
        AlreadyPreparedError: The reference is prepared.
        AlreadyConvertedError: The reference is quantized.
        CalibrationError: An element of the data is of another kind.
        UncalibratedError: The prepared model has seen no data.
        LoweringError: The runner refuses the model.
    """
    _require_float(reference)
    converted = _rounding_form(quantized)
    _require_alike(reference, converted)
    reference = tidy(reference)
    pair = Lockstep(reference, converted)
    _require_twins(pair, converted)
    spreads = SpreadWatch() if histograms else None
    watch = Watch(blame=blame, look=None if spreads is None else spreads.look)
    kernels: Kernels | None = None
    outputs: list[Tally | None] = []
    count = 0
    for batch in data if progress is None else progress(data):
        with says_what_misfits(reference, batch, count):
            inputs = tuple(reference.graph.process_inputs(*positional_inputs(reference, batch, count)))
            if runner is not None and kernels is None:
                kernels = Kernels(runner, converted, pair, inputs)
            if kernels is None:
                found, actual = pair.run(inputs, inputs, watch)
            else:
                actual, given = kernels.run(inputs)
                found, _ = pair.run(inputs, None, watch, given)
        _add_outputs(outputs, found, actual)
        count += 1
    if count == 0:
        message = "the data holds no batch at all; give at least one (has an iterator been used up before?)"
        raise ComparisonError(message)
    notes = [*_notes(pair, watch), *(() if kernels is None else kernels.notes)]
    return Comparison(
        layers=_layers(pair, watch, spreads),
        outputs=tuple(
            OutputError(name=f"output {index}", sqnr=it.sqnr, mse=it.mse, cosine=it.cosine)
            for index, it in enumerate(outputs)
            if it is not None
        ),
        batches=count,
        runner=None if runner is None else runner.name,
        notes=tuple(notes),
    )


def _require_float(reference: object) -> None:
    model = require_graph_module(reference, "compare")
    if calls := observer_calls(model):
        message = (
            f"the reference holds {len(calls)} observers (first: {calls[0].target}); the first argument of compare is "
            "the exported float model, the second the quantized one"
        )
        raise AlreadyPreparedError(message)
    for node in nodes_of(model):
        if is_rounding(node):
            message = (
                f"the reference is quantized: it holds {describe(node)}; the first argument of compare is the exported "
                "float model, the second the quantized one"
            )
            raise AlreadyConvertedError(message)


def _rounding_form(quantized: object) -> GraphModule:
    """Return a converted model of our own, with its constants where they are used."""
    model = require_graph_module(quantized, "compare")
    if observer_calls(model):
        result = convert_pt2e(model)
    elif any(is_rounding(node) for node in nodes_of(model)):
        result = copy_model(model)
        remove_guards(result)
        inline_regions(result)
    else:
        message = (
            "the second model holds neither observers nor q/dq ops, so nothing in it is quantized; pass the result of "
            "prepare_pt2e (after calibration), prepare_qat_pt2e or convert_pt2e"
        )
        raise NotPreparedError(message)
    sink_constants(result)
    for _path, graph in graphs_of(result):
        compose_ops(graph)  # as the reference is, whatever its quantizer was shown
    return result


def _require_alike(reference: GraphModule, quantized: GraphModule) -> None:
    """Refuse models that take or return other things."""
    theirs, ours = (len(it.graph.find_nodes(op="placeholder")) for it in (reference, quantized))
    if theirs != ours:
        message = f"the models are no twins: the reference takes {theirs} inputs, the quantized model {ours}"
        raise ComparisonError(message)
    trees = [
        getattr(getattr(it.graph._codegen, "pytree_info", None), "out_spec", None) for it in (reference, quantized)
    ]
    counts = [len(output_leaves(it)) for it in (reference, quantized)]
    if counts[0] != counts[1] or (None not in trees and trees[0] != trees[1]):
        message = (
            f"the models' outputs differ in structure: the reference returns {counts[0]} values as {trees[0]}, the "
            f"quantized model {counts[1]} as {trees[1]}"
        )
        raise ComparisonError(message)


def _require_twins(pair: Lockstep, quantized: GraphModule) -> None:
    """Refuse models without one rounded value in common."""
    pairs = pair.all_pairs()
    if any(point.rounding is not None or not point.exact for it in pairs for point in it.found.points):
        return
    alone = [describe(node) for it in pairs for node in it.found.alone]
    if not alone and any(node.op == "call_function" for it in pairs for node in it.twins.calls):
        return  # constants alone are rounded, which no data reaches
    names = [
        node.name for _path, graph in graphs_of(quantized) for node in graph.graph.nodes if node.op == "call_function"
    ]
    message = (
        "the models are no twins: no quantized layer of the one is in the other by name and op. Quantize the module "
        f"that is the reference, or another export of the same model. Quantized are {listed(alone or names, 5)}"
    )
    raise ComparisonError(message)


def _add_outputs(tallies: list[Tally | None], expected: Any, actual: Any) -> None:
    theirs, ours = tree_leaves(expected), tree_leaves(actual)
    if not tallies:
        tallies += [Tally() if isinstance(it, torch.Tensor) and it.is_floating_point() else None for it in theirs]
    for index, (tally, r, a) in enumerate(zip(tallies, theirs, ours, strict=True)):
        if tally is None:
            continue
        if r.shape != a.shape:
            message = (
                f"output {index} has the shape {tuple(r.shape)} in the reference and {tuple(a.shape)} in the quantized "
                "model; they are no twins"
            )
            raise ComparisonError(message)
        tally.add(r, a, None)


def _layers(pair: Lockstep, watch: Watch, spreads: SpreadWatch | None) -> tuple[LayerError, ...]:
    found = [
        (it.path, point, tally)
        for it in pair.all_pairs()
        for point in it.found.points
        if (tally := watch.tallies.get((it.path, point))) is not None and tally.compared
    ]
    unused = [_unused_bits(point, tally) for _path, point, tally in found]
    shares = _shares([tally for _path, _point, tally in found], unused) if watch.blame else None
    return tuple(
        LayerError(
            node=name_in(path, point.layer.name),
            op=op_name(point.layer),
            module=module_path(point.layer),
            source=source_line(point.layer),
            members=tuple(name_in(path, member.name) for member in point.members),
            twin=name_in(path, point.twin.name),
            rounded=point.rounding is not None,
            sqnr=tally.sqnr,
            mse=tally.mse,
            cosine=tally.cosine,
            max_error_lsb=tally.largest_lsb,
            own_sqnr=None if shares is None else tally.own_sqnr,
            unused_bits=None if shares is None else unused[index],
            blame=None if shares is None else shares[index],
            spread=None if spreads is None else spreads.spread(path, point),
        )
        for index, (path, point, tally) in enumerate(found)
    )


def _unused_bits(point: Point, tally: Tally) -> float:
    of_result = 0.0 if point.rounding is None else point.rounding.unused_bits(tally.low, tally.high)
    return max(of_result, point.unused_weight_bits)


def _shares(tallies: Sequence[Tally], unused_bits: Sequence[float]) -> list[float]:
    """Return each one's share of the sum of all own noise over signal; where it is endless, those share it alone."""
    ratios = [
        it.own_ratio * 4 ** max(bits - _NOBODYS_FAULT, 0.0) for it, bits in zip(tallies, unused_bits, strict=True)
    ]
    if math.inf in ratios:
        ratios = [float(it == math.inf) for it in ratios]
    total = sum(ratios)
    return [it / total if total else 0.0 for it in ratios]


def _notes(pair: Lockstep, watch: Watch) -> list[str]:
    notes = []
    pairs = pair.all_pairs()
    alone = [name_in(it.path, node.name) for it in pairs for node in it.found.alone]
    if alone:
        notes.append(
            f"{len(alone)} rounded values are not in the reference; their error counts for the layer behind: "
            f"{listed(alone, 10)}"
        )
    if watch.unlike:
        words = [f"{name}: {how}" for name, how in watch.unlike.items()]
        notes.append(f"{len(words)} values have another shape in the reference: {listed(words, 10)}")
    if watch.parted:
        notes.append(
            f"the models went different ways in {listed(sorted(watch.parted), 10)}; there only the own error is known"
        )
    inside = {it.path for it in pairs}
    apart = [path for path, _graph in graphs_of(pair.quantized) if path not in inside]
    if apart:
        notes.append(f"not compared inside control flow that the reference has not: {listed(apart, 10)}")
    unreached = [
        name_in(it.path, point.layer.name)
        for it in pairs
        for point in it.found.points
        if (it.path, point) not in watch.tallies and name_in(it.path, point.layer.name) not in watch.unlike
    ]
    if unreached:
        notes.append(f"no data reached {listed(unreached, 10)}")
    return notes
