"""Give the channels between two layers like ranges: scale each up in the one layer and down in the other.

Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721, §4.1): f(s·x) = s·f(x) for relu and its kin, so that
W₂·f(W₁x + b₁) = (W₂/s)·f(s·W₁x + s·b₁) for any s > 0 for each channel. Here s is a power of two, so that the float
model computes the same bits. The paper puts relu in the place of relu6, which makes another function of it; here a
clamp stays, and a channel is scaled up no further than to its bound, as far as calibration and batch norm tell.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.accuracy.chains import Chain, batched, find_chains
from quantizer_sdk.accuracy.channel_weights import scaled_by_input, weight_by_input, weight_by_output
from quantizer_sdk.accuracy.quantized_layers import give_constant, shape_of_channels
from quantizer_sdk.batches import Progress
from quantizer_sdk.constants import Constants
from quantizer_sdk.errors import CalibrationError
from quantizer_sdk.operands import argument
from quantizer_sdk.passes.clamp_forms import bounds_of_clamp
from quantizer_sdk.passes.fold_batch_norm import NORM_KEY, Normal, scaled_by_output
from quantizer_sdk.provenance import listed
from quantizer_sdk.quantize_pt2e import tidy
from quantizer_sdk.watched_run import WatchedRun

__all__ = ["NotEqualizedWarning", "cross_layer_equalization"]

_SWEEPS = 20  # powers of two settle in fewer
_LARGEST = 2.0**10  # of a scale: channels that are all but dead stay small
_FEWEST = 256  # values of a channel that tell its range; a pooled one is a single value an image
_MARGIN = 4.0  # how far other data may exceed what calibration has seen before a bound is met that was not
_DEVIATIONS = 10.0  # of what batch norm gives, that other data may have


class NotEqualizedWarning(UserWarning):
    """Nothing was equalized."""


def cross_layer_equalization(
    model: GraphModule,
    batches: Iterable[Any] | None = None,
    *,
    progress: Progress | None = None,
) -> GraphModule:
    """Return a float model between whose layers the ranges of channels are alike.

    For convolutions and linear layers, depthwise ones included, that follow one another with nothing in between but
    relu, leaky_relu, pooling, padding with zeros, and clamps. Use it first, before any other tool.

    Args:
        model: An exported float model for inference. It is left as it is.
        batches: None gives each channel one range in both weights, as in the paper: for weights with one scale a
            tensor. Inputs as `calibrate` takes them give it one relative range in the activation and in the second
            weight: for weights with a scale for each output channel, for which the first weight's range is of no
            consequence, nor the second's where it is depthwise. Clamps such as relu6 are passed with batches only, and
            pairs of which batches hold fewer than 256 values a channel are left.
        progress: Wraps the batches to show progress, such as `tqdm.tqdm`.

    Returns:
        The model with batch norms folded and scaled weights. It computes the same bits, save for values that leave
        float32's range, and for inputs on which a channel before a clamp exceeds 4 times all that it was in
        `batches` and, behind batch norm, 10 deviations: its bound then is met earlier.

    Raises:
        CalibrationError: `batches` holds none, or one of another kind.
        NotExportedError: The model is no graph module of an exported program.

    Warns:
        NotEqualizedWarning: No two layers qualify; says why, layer by layer.
    """
    result = tidy(model)
    chains, reasons = find_chains(result)
    if batches is None:
        for chain in chains:
            if chain.clamps:
                reasons[chain.first] = f"{chain.clamps[0].name} clamps: give batches, which tell what it does not meet"
        chains = [chain for chain in chains if not chain.clamps]
    ranges = None if batches is None or not chains else _observed(result, chains, batches, progress)
    if ranges is not None:
        for chain in chains:
            seen = ranges.counts[argument(chain.second, "input")]
            if seen < _FEWEST:
                reasons[chain.first] = f"only {seen} values of a channel are seen behind it, below {_FEWEST}"
        chains = [chain for chain in chains if ranges.counts[argument(chain.second, "input")] >= _FEWEST]
    if not chains:
        each = listed([f"{layer.name}: {reason}" for layer, reason in reasons.items()], 10)
        message = f"no two layers can be equalized. {each or 'The model has none'}"
        warnings.warn(message, NotEqualizedWarning, stacklevel=2)
        return result
    _equalize(result, chains, ranges)
    result.graph.lint()
    result.recompile()
    return result


@dataclass(slots=True)
class _Ranges:
    """What calibration has seen of some nodes.

    Attributes:
        axes: The channel axis of each.
        counts: How many values of each channel there were.
        lows: The smallest, float64 [channels].
        highs: The largest.
    """

    axes: dict[Node, int]
    counts: Counter[Node] = field(default_factory=Counter)
    lows: dict[Node, torch.Tensor] = field(default_factory=dict)
    highs: dict[Node, torch.Tensor] = field(default_factory=dict)

    def take_in(self, node: Node, value: torch.Tensor) -> None:
        """Look at what a node gives."""
        lanes = value.detach().movedim(self.axes[node], 0).flatten(1).double()
        self.counts[node] += lanes.shape[1]
        if lanes.numel():
            low, high = lanes.aminmax(dim=1)
            self.lows[node] = torch.minimum(self.lows[node], low) if node in self.lows else low
            self.highs[node] = torch.maximum(self.highs[node], high) if node in self.highs else high


def _observed(
    model: GraphModule,
    chains: list[Chain],
    batches: Iterable[Any],
    progress: Progress | None,
) -> _Ranges:
    """Return the ranges of what second layers read, and of what clamps give."""
    axes: dict[Node, int] = {}
    for chain in chains:
        read: Node = argument(chain.second, "input")
        axes[read] = -len(shape_of_channels(chain.second))
        own = 1 if batched(chain.first) else -len(shape_of_channels(chain.first))
        axes.update({clamp: own for clamp in chain.clamps if clamp is not read})
    ranges = _Ranges(axes)
    WatchedRun(model, axes, ranges.take_in).run_batches(batches if progress is None else progress(batches))
    if not ranges.lows:
        message = "the calibration data holds no batch at all; give at least one, or None to balance weights alone"
        raise CalibrationError(message)
    return ranges


def _equalize(model: GraphModule, chains: list[Chain], ranges: _Ranges | None) -> None:
    """Scale channels pair by pair until none changes, then write the weights."""
    constants = Constants(model)
    layers = dict.fromkeys(layer for chain in chains for layer in (chain.first, chain.second))
    given = {layer: constants.read(argument(layer, "weight")).detach().double() for layer in layers}
    weights = dict(given)
    outputs = {layer: torch.ones(1, dtype=torch.float64) for layer in layers}  # how far its channels are scaled
    whole: dict[Node, torch.Tensor] = {}
    for _ in range(_SWEEPS):
        changed = False
        for chain in chains:
            before = outputs[chain.first]
            after = _scale(chain, weights, ranges, before).clamp(1 / _LARGEST, _LARGEST)
            if ranges is not None and chain.clamps:
                after = torch.minimum(after.clamp(min=1.0), _room(chain, ranges))
            change = after / before
            if bool((change != 1).any()):
                changed = True
                weights[chain.first] = scaled_by_output(chain.first, weights[chain.first], change)
                weights[chain.second] = scaled_by_input(chain.second, weights[chain.second], 1 / change)
                outputs[chain.first] = whole[chain.first] = after
        if not changed:
            break
    for layer in layers:
        if weights[layer] is not given[layer]:
            _write(constants, layer, weights[layer], whole.get(layer))


def _scale(
    chain: Chain, weights: dict[Node, torch.Tensor], ranges: _Ranges | None, before: torch.Tensor
) -> torch.Tensor:
    """Return the powers of two by which channels of the model as it was are multiplied; 1 for those without a signal.

    Args:
        chain: Their chain.
        weights: Those of the layers, as they are by now.
        ranges: Of what layers read in the model as it was; None to go by weights alone.
        before: By what the chain's channels are multiplied by now.
    """
    second = weight_by_input(chain.second, weights[chain.second]).abs().amax(1) * before
    if ranges is None:
        first = weight_by_output(chain.first, weights[chain.first]).abs().amax(1) / before
        powers = (second / first).sqrt().log2().round().exp2()
    else:
        read = argument(chain.second, "input")
        first = torch.maximum(-ranges.lows[read], ranges.highs[read])
        powers = (first.amax() / first).log2()
        powers = powers.floor() if chain.by_channel else ((powers + (second / second.amax()).log2()) / 2).round()
        powers = powers.exp2()
    return torch.where(torch.isfinite(powers) & (powers > 0), powers, 1.0)


def _room(chain: Chain, ranges: _Ranges) -> torch.Tensor:
    """Return the largest power of two by which each channel may be multiplied without meeting a bound; at least 1."""
    room: torch.Tensor | None = None
    normal = chain.first.meta.get(NORM_KEY)
    for clamp in chain.clamps:
        low, high = bounds_of_clamp(clamp) or (0.0, 0.0)
        for end, sign, seen in ((high, 1, ranges.highs[clamp]), (-low, -1, -ranges.lows[clamp])):
            if not 0 < end < float("inf"):
                continue
            reached = torch.where(seen >= end, end, _MARGIN * seen)
            if isinstance(normal, Normal):
                reached = torch.maximum(reached, sign * normal.mean + _DEVIATIONS * normal.deviation)
            own = torch.where(reached > 0, end / reached, _LARGEST)  # one without a signal has all room
            room = own if room is None else torch.minimum(room, own)
    assert room is not None
    return torch.exp2(room.clamp(min=1.0).log2().floor())


def _write(constants: Constants, layer: Node, weight: torch.Tensor, output: torch.Tensor | None) -> None:
    """Give a layer its scaled weight, and its scaled bias."""
    old, bias = argument(layer, "weight"), argument(layer, "bias")
    if output is not None and bias is not None:
        scaled = constants.read(bias).detach().double() * output
        give_constant(constants, layer, "bias", scaled, f"{bias.target}_equalized")
    give_constant(constants, layer, "weight", weight, f"{old.target}_equalized")
    normal = layer.meta.get(NORM_KEY)
    if output is not None and isinstance(normal, Normal):
        layer.meta[NORM_KEY] = normal.scaled(output)
