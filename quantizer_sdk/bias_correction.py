"""Let biases take back the shift that rounding gives to the mean of each channel.

Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, appendix D), layer by layer, each behind layers that are
corrected already. What few batches say of a mean is noise in part, so a layer's correction is shrunk by the share of
noise in it, as James and Stein (1961) shrink a vector of means: without that, small calibration sets are overfitted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves

from quantizer_sdk.batches import positional_inputs
from quantizer_sdk.calibration import calibrate
from quantizer_sdk.constants import Constants, sibling
from quantizer_sdk.operands import argument, replace_argument
from quantizer_sdk.passes.fold_batch_norm import FOLDABLE, output_scale_shape
from quantizer_sdk.provenance import describe, listed, value_of
from quantizer_sdk.qdq import is_dequantize
from quantizer_sdk.quantize_pt2e import convert_pt2e, prepare_pt2e, tidy
from quantizer_sdk.quantizer import QuantizerLike
from quantizer_sdk.watched_run import WatchedRun

__all__ = ["BiasNotCorrectedWarning", "bias_correction"]


class BiasNotCorrectedWarning(UserWarning):
    """A quantized layer keeps its bias as it was."""


def bias_correction(
    model: GraphModule,
    quantizer: QuantizerLike,
    batches: Iterable[Any],
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> GraphModule:
    """Return a float model whose biases make up for what quantizing shifts.

    Raises accuracy with no training where the weights of a channel are few, as in depthwise convolutions. Use it after
    `smooth_quant` and before `prepare_pt2e`, with the same quantizer. One pass over the graph, all batches abreast: the
    memory is that of the activations that are alive at one place of the graph, for all batches, twice.

    Args:
        model: An exported float model for inference. It is left as it is.
        quantizer: What the model will be quantized with.
        batches: Inputs as `calibrate` takes them; they are held in memory. Some dozens of samples do.
        progress: Wraps the ops of the graph to show progress, such as `tqdm.tqdm`.

    Returns:
        The model with batch norms folded and new biases, in layers that had none too. By itself it is less accurate
        than the model was: what it makes up for happens only when it is quantized. Biases stay where correcting them
        makes the outputs for these batches worse.

    Raises:
        CalibrationError: There are no batches, or one is of another kind.
        QuantizerError: `prepare_pt2e` or `convert_pt2e` refuses the model or the quantizer.

    Warns:
        BiasNotCorrectedWarning: A quantized layer has another form than in the given model, or outputs get worse.
    """
    batches = list(batches)
    result = tidy(model)
    prepared = prepare_pt2e(result, quantizer)
    calibrate(prepared, batches)
    quantized = convert_pt2e(prepared)
    layers = _layers(result, quantized)
    with torch.no_grad():
        means: dict[Node, list[torch.Tensor]] = {layer: [] for layer in layers.values()}
        floats = WatchedRun(result, means, lambda layer, value: means[layer].append(_means_of(layer, value)))
        inputs = [positional_inputs(result, batch, index) for index, batch in enumerate(batches)]
        expected = [floats.run(*values) for values in inputs]
        rounded = Interpreter(quantized)
        before = _error(expected, [rounded.run(*values) for values in inputs])
        shifts, found = _shifts(quantized, inputs, layers, means, progress)
        after = _error(expected, found)
    if after > before:
        message = (
            f"no bias is corrected, for that makes the outputs worse: their noise is {after:.2g} of the signal instead "
            f"of {before:.2g}. Means are taken over whole tensors; do most positions, such as padding, not count?"
        )
        warnings.warn(message, BiasNotCorrectedWarning, stacklevel=2)
        return result
    constants = Constants(result)
    for layer, shift in shifts.items():
        _add_to_bias(constants, layer, shift)
    result.graph.lint()
    result.recompile()
    return result


def _layers(model: GraphModule, quantized: GraphModule) -> dict[Node, Node]:
    """Return the layers of the float model, by those of the quantized one that round their weights."""
    floats = {node.name: node for node in model.graph.nodes if node.target in FOLDABLE}
    found, others = {}, []
    for node in quantized.graph.nodes:
        if node.target not in FOLDABLE or not _is_rounded(argument(node, "weight")):
            continue
        layer = floats.get(node.name)
        if layer is None or layer.target is not node.target or not _is_constant(argument(layer, "bias")):
            others.append(node)
        else:
            found[node] = layer
    if others:
        message = (
            f"the bias of {len(others)} quantized layers is not corrected: the given model has them in another form, "
            f"or computes their bias at run time. {listed([describe(node) for node in others], 10)}"
        )
        warnings.warn(message, BiasNotCorrectedWarning, stacklevel=3)
    return found


def _is_rounded(weight: Any) -> bool:
    """Whether a weight is made of codes that are stored."""
    return isinstance(weight, Node) and is_dequantize(weight) and weight.all_input_nodes[0].op == "get_attr"


def _is_constant(bias: Any) -> bool:
    return bias is None or (isinstance(bias, Node) and bias.op == "get_attr")


def _shape_of_channels(layer: Node) -> list[int]:
    """Return the shape in which one number a channel stands beside a layer's result."""
    return output_scale_shape(layer, value_of(argument(layer, "weight")).dim())


def _means_of(layer: Node, value: torch.Tensor) -> torch.Tensor:
    """Return the mean of each channel, for each element of the first axis where that is not the channels' own.

    Returns:
        float64 [rows, channels]; a result without an axis for the batch has one row.
    """
    axis = value.dim() - len(_shape_of_channels(layer))
    rows = value.double().movedim(axis, -1)
    return rows.reshape(1 if axis == 0 else value.shape[0], -1, value.shape[axis]).mean(1)


def _error(expected: list[Any], found: list[Any]) -> float:
    """Return the power of the noise in float outputs over that of the signal, added up over the outputs."""
    noise: dict[int, float] = {}
    signal: dict[int, float] = {}
    for wanted, value in zip(expected, found, strict=True):
        for index, (a, b) in enumerate(zip(tree_leaves(wanted), tree_leaves(value), strict=True)):
            if isinstance(a, torch.Tensor) and a.is_floating_point():
                noise[index] = noise.get(index, 0.0) + float((a.double() - b.double()).square().sum())
                signal[index] = signal.get(index, 0.0) + float(a.double().square().sum())
    return sum(noise[index] / signal[index] if signal[index] else 0.0 for index in noise)


def _shifts(
    quantized: GraphModule,
    inputs: Sequence[tuple[Any, ...]],
    layers: dict[Node, Node],
    means: dict[Node, list[torch.Tensor]],
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None,
) -> tuple[dict[Node, torch.Tensor], list[Any]]:
    """Run the quantized model op by op on all inputs, and correct each layer before the next one runs.

    Returns:
        What each layer's bias lacks, [channels], by the layers of the float model; and the outputs for each input.
    """
    runs = [Interpreter(quantized) for _ in inputs]
    for run, given in zip(runs, inputs, strict=True):
        run.args_iter = iter(quantized.graph.process_inputs(*given))
    found: dict[Node, torch.Tensor] = {}
    values: list[Any] = []
    for node in quantized.graph.nodes if progress is None else progress(quantized.graph.nodes):
        values = [run.run_node(node) for run in runs]
        if node in layers:
            layer = layers[node]
            pairs = zip(means[layer], values, strict=True)
            found[layer] = shift = _shrunk(torch.cat([wanted - _means_of(layer, value) for wanted, value in pairs]))
            beside = shift.reshape(_shape_of_channels(layer))
            values = [value + beside.to(value) for value in values]
        for run, value in zip(runs, values, strict=True):
            run.env[node] = value
            for unread in run.user_to_last_uses.get(node, ()):
                del run.env[unread]
    return found, values  # of the output node, which is the last


def _shrunk(samples: torch.Tensor) -> torch.Tensor:
    """Return the mean of samples [rows, channels], times the share of its power that their spread does not explain."""
    mean = samples.mean(0)
    if len(samples) == 1:
        return mean
    noise = samples.var(0).mean() / len(samples)
    power = mean.square().mean()
    return mean * torch.clamp(1 - noise / power, min=0.0) if power > 0 else mean


def _add_to_bias(constants: Constants, layer: Node, shift: torch.Tensor) -> None:
    """Give a layer a bias of its own, for other calls may read the same."""
    weight, old = argument(layer, "weight"), argument(layer, "bias")
    like = weight if old is None else old
    dtype, before = constants.read(weight).dtype, 0.0 if old is None else constants.read(old).detach().double()
    target = sibling(str(weight.target), "bias") if old is None else str(old.target)
    replace_argument(layer, "bias", None)
    constants.release(old)
    with layer.graph.inserting_before(layer):
        new = constants.add(target, nn.Parameter((shift + before).to(dtype), requires_grad=False), like=like)
    replace_argument(layer, "bias", new)
