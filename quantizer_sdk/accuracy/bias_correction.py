"""Let biases take back the shift that rounding gives to the mean of each channel.

Nagel et al. 2019, arXiv:1906.04721: by data (appendix D, see `empirical_shifts`), or by batch norm's statistics alone
(§4.2, see `analytic_shifts`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from quantizer_sdk.accuracy.analytic_shifts import analytic_shifts
from quantizer_sdk.accuracy.empirical_shifts import means_of, relative_noise, shifts_behind_corrected
from quantizer_sdk.accuracy.quantized_layers import give_constant, names_of, rounded_layers
from quantizer_sdk.batches import Progress, positional_inputs
from quantizer_sdk.calibration import calibrate
from quantizer_sdk.constants import Constants, sibling
from quantizer_sdk.operands import argument
from quantizer_sdk.quantize_pt2e import convert_pt2e, prepare_pt2e, tidy
from quantizer_sdk.quantizer import QuantizerLike
from quantizer_sdk.watched_run import WatchedRun

__all__ = ["BiasNotCorrectedWarning", "bias_correction"]


class BiasNotCorrectedWarning(UserWarning):
    """A quantized layer keeps its bias as it was."""


def bias_correction(
    model: GraphModule,
    quantizer: QuantizerLike,
    batches: Iterable[Any] | None = None,
    *,
    progress: Progress | None = None,
) -> GraphModule:
    """Return a float model whose biases make up for what quantizing shifts.

    Raises accuracy with no training where the weights of a channel are few, as in depthwise convolutions. Use it last,
    before `prepare_pt2e` and with the same quantizer.

    With batches, one pass over the graph, all batches abreast: the memory is that of the activations that are alive at
    one place of the graph, for all batches, twice. Without, what batch norm was trained to give stands for the data:
    layers whose operand is not made of that, by clamps, activations, sums and averages, keep their bias.

    Args:
        model: An exported float model for inference. It is left as it is.
        quantizer: What the model will be quantized with.
        batches: Inputs as `calibrate` takes them; they are held in memory. Some dozens of samples do. None corrects
            without data what rounding the weights shifts, and not what rounding activations does.
        progress: Wraps the ops of the graph to show progress, such as `tqdm.tqdm`.

    Returns:
        The model with batch norms folded and new biases, in layers that had none too. By itself it is less accurate
        than the model was: what it makes up for happens only when it is quantized. With batches, biases stay where
        correcting them makes the outputs for these batches worse.

    Raises:
        CalibrationError: There are no batches, or one is of another kind.
        QuantizerError: `prepare_pt2e` or `convert_pt2e` refuses the model or the quantizer.

    Warns:
        BiasNotCorrectedWarning: A quantized layer has another form than in the given model; outputs get worse;
            without batches, batch norm does not tell the means of what a layer reads.
    """
    result = tidy(model)
    shifts = _by_norms(result, quantizer) if batches is None else _by_data(result, quantizer, list(batches), progress)
    constants = Constants(result)
    for layer, shift in shifts.items():
        _add_to_bias(constants, layer, shift)
    result.graph.lint()
    result.recompile()
    return result


def _by_norms(model: GraphModule, quantizer: QuantizerLike) -> dict[Node, torch.Tensor]:
    """Return what the bias of each layer lacks by batch norm's statistics."""
    shifts, others = analytic_shifts(model, prepare_pt2e(model, quantizer))
    if others:
        message = (
            f"the bias of {len(others)} quantized layers is not corrected, and that of {len(shifts)} is: no batch norm "
            f"tells the means of what they read, or the given model has them in another form. {names_of(others)}"
        )
        warnings.warn(message, BiasNotCorrectedWarning, stacklevel=3)
    return shifts


def _by_data(
    model: GraphModule, quantizer: QuantizerLike, batches: list[Any], progress: Progress | None
) -> dict[Node, torch.Tensor]:
    """Return what the bias of each layer lacks by what the model makes of batches; nothing where outputs get worse."""
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, batches)
    quantized = convert_pt2e(prepared)
    layers, others = rounded_layers(model, quantized)
    if others:
        message = (
            f"the bias of {len(others)} quantized layers is not corrected: the given model has them in another form, "
            f"or computes their bias at run time. {names_of(others)}"
        )
        warnings.warn(message, BiasNotCorrectedWarning, stacklevel=3)
    with torch.no_grad():
        means: dict[Node, list[torch.Tensor]] = {layer: [] for layer in layers.values()}
        floats = WatchedRun(model, means, lambda layer, value: means[layer].append(means_of(layer, value)))
        inputs = [positional_inputs(model, batch, index) for index, batch in enumerate(batches)]
        expected = [floats.run(*values) for values in inputs]
        rounded = Interpreter(quantized)
        before = relative_noise(expected, [rounded.run(*values) for values in inputs])
        shifts, found = shifts_behind_corrected(quantized, inputs, layers, means, progress)
        after = relative_noise(expected, found)
    if after > before:
        message = (
            f"no bias is corrected, for that makes the outputs worse: their noise is {after:.2g} of the signal instead "
            f"of {before:.2g}. Means are taken over whole tensors; do most positions, such as padding, not count?"
        )
        warnings.warn(message, BiasNotCorrectedWarning, stacklevel=3)
        return {}
    return shifts


def _add_to_bias(constants: Constants, layer: Node, shift: torch.Tensor) -> None:
    """Give a layer a bias of its own with a shift added."""
    weight, old = argument(layer, "weight"), argument(layer, "bias")
    before = 0.0 if old is None else constants.read(old).detach().double()
    target = sibling(str(weight.target), "bias") if old is None else str(old.target)
    give_constant(constants, layer, "bias", shift + before, target)
