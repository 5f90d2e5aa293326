"""How far a quantized model's means of channels lie from the float model's, layer by layer, on some data.

Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, appendix D), each layer behind layers that are corrected
already. What few batches say of a mean is noise in part, so a layer's correction is shrunk by the share of noise in it,
as James and Stein (1961) shrink a vector of means: without that, small calibration sets are overfitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from quantizer_sdk.accuracy.abreast import AbreastRun
from quantizer_sdk.accuracy.quantized_layers import shape_of_channels
from quantizer_sdk.batches import Progress

__all__ = ["means_of", "relative_noise", "shifts_behind_corrected", "shrunk"]


def means_of(layer: Node, value: torch.Tensor) -> torch.Tensor:
    """Return the mean of each channel, for each element of the first axis where that is not the channels' own.

    Returns:
        float64 [rows, channels]; a result without an axis for the batch has one row.
    """
    axis = value.dim() - len(shape_of_channels(layer))
    rows = value.double().movedim(axis, -1)
    return rows.reshape(1 if axis == 0 else value.shape[0], -1, value.shape[axis]).mean(1)


def relative_noise(expected: list[Any], found: list[Any]) -> float:
    """Return the power of the noise in float outputs over that of the signal, added up over the outputs."""
    noise: dict[int, float] = {}
    signal: dict[int, float] = {}
    for wanted, value in zip(expected, found, strict=True):
        for index, (a, b) in enumerate(zip(tree_leaves(wanted), tree_leaves(value), strict=True)):
            if isinstance(a, torch.Tensor) and a.is_floating_point():
                noise[index] = noise.get(index, 0.0) + float((a.double() - b.double()).square().sum())
                signal[index] = signal.get(index, 0.0) + float(a.double().square().sum())
    return sum(noise[index] / signal[index] if signal[index] else 0.0 for index in noise)


def shifts_behind_corrected(
    quantized: GraphModule,
    inputs: Sequence[tuple[Any, ...]],
    layers: dict[Node, Node],
    means: dict[Node, list[torch.Tensor]],
    progress: Progress | None,
) -> tuple[dict[Node, torch.Tensor], list[Any]]:
    """Run the quantized model op by op on all inputs, and correct each layer before the next one runs.

    Returns:
        What each layer's bias lacks, [channels], by the layers of the float model; and the outputs for each input.
    """
    found: dict[Node, torch.Tensor] = {}
    values: list[Any] = []
    run = AbreastRun(quantized, inputs)
    for node, values in run if progress is None else progress(run):
        if node in layers:
            layer = layers[node]
            pairs = zip(means[layer], values, strict=True)
            found[layer] = shift = shrunk(torch.cat([wanted - means_of(layer, value) for wanted, value in pairs]))
            beside = shift.reshape(shape_of_channels(layer))
            values[:] = [value + beside.to(value) for value in values]
    return found, values  # of the output node, which is the last


def shrunk(samples: torch.Tensor) -> torch.Tensor:
    """Return the mean of samples [rows, channels], times the share of its power that their spread does not explain."""
    mean = samples.mean(0)
    if len(samples) == 1:
        return mean
    noise = samples.var(0).mean() / len(samples)
    power = mean.square().mean()
    return mean * torch.clamp(1 - noise / power, min=0.0) if power > 0 else mean
