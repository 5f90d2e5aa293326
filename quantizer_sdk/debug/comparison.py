"""What a comparison found out: plain figures, no tensors."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from quantizer_sdk.debug.spread import Spread

__all__ = ["Comparison", "LayerError", "OutputError"]

_PRINTED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """How far a quantized layer is from the float one.

    Attributes:
        node: The op that the layer is named after: the one with weights, or the last; inside control flow after the
            graph's path, "true_graph_0/linear". `explain` has the same names.
        op: Its overload, such as "aten.conv2d.default".
        module: Path of the module it came from; "" for the model itself.
        source: The user's line, "file:line: code"; "" if unknown.
        members: All ops of the layer: those that one kernel computes, and the last, whose result is compared.
        twin: The node of the float graph whose value that stands for.
        rounded: Whether the result is rounded: to codes, or to a smaller float type.
        sqnr: 10·log10(Σ float² / Σ (float - quantized)²) in dB, with all errors built up since the input.
        mse: Mean squared error, of the same.
        cosine: Cosine between both results, all elements of all data as one vector.
        max_error_lsb: The largest error in steps of the result's scale; None where it has none.
        own_sqnr: In dB, with the error of this layer alone: its inputs are the float model's values. None if that was
            not asked for.
        unused_bits: How many bits of the codes nobody uses, those of the result or those of the weights, whichever are
            more; what the data does not reach counts. None if the own error was not asked for.
        blame: This layer's share of the sum of own noise over signal over all layers. Where more than one bit goes
            unused, the noise could have been less, and counts four times for each further bit. None as before.
        spread: How the float model's values lie; None if histograms were not asked for.
    """

    node: str
    op: str
    module: str
    source: str
    members: tuple[str, ...]
    twin: str
    rounded: bool
    sqnr: float
    mse: float
    cosine: float
    max_error_lsb: float | None
    own_sqnr: float | None = None
    unused_bits: float | None = None
    blame: float | None = None
    spread: Spread | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """How far one output is from the float model's; attributes as in `LayerError`, `name` is "output 0" and so on."""

    name: str
    sqnr: float
    mse: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models, layer by layer.

    Attributes:
        layers: In the graph's order; those inside control flow behind the others, by graph.
        outputs: In the models' order; what is no float tensor is left out.
        batches: How many were run.
        runner: The runtime whose kernels were compared; None for PyTorch.
        notes: What could not be compared, and why.
    """

    layers: tuple[LayerError, ...]
    outputs: tuple[OutputError, ...]
    batches: int
    runner: str | None = None
    notes: tuple[str, ...] = ()

    def ranked(self) -> tuple[LayerError, ...]:
        """Return the layers by blame, worst first; without it by the signal to noise ratio, lowest first."""
        return tuple(sorted(self.layers, key=_worst_first))

    def layer(self, node: str) -> LayerError:
        """Return the layer that an op is in.

        Raises:
            KeyError: No layer has an op of this name.
        """
        for layer in self.layers:
            if node == layer.node or node in layer.members:
                return layer
        message = f"no layer has an op {node!r}; there are {', '.join(layer.node for layer in self.layers)}"
        raise KeyError(message)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data; what is infinite becomes a string, as JSON has no number for it."""
        return {
            "batches": self.batches,
            "runner": self.runner,
            "notes": list(self.notes),
            "outputs": [_plain(output) for output in self.outputs],
            "layers": [_plain(layer) for layer in self.layers],
        }

    def to_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def plot(self, path: str | Path | IO[bytes], layers: Sequence[str] | None = None) -> None:
        """Draw a bar for each layer: the noise that has built up, and the layer's own.

        Args:
            path: The file to write; its suffix says which kind. A file that is open gets a PNG.
            layers: Nodes of the layers to draw; None draws all.

        Raises:
            MissingDependencyError: matplotlib is not installed.
            KeyError: There is no such layer.
        """
        from quantizer_sdk.debug.plots import plot_layers

        plot_layers(self, self._chosen(layers, len(self.layers)), path)

    def plot_histograms(self, path: str | Path | IO[bytes], layers: Sequence[str] | None = None) -> None:
        """Draw how the float model's values lie, and the range that the codes can represent.

        Args:
            path: As in `plot`, and so is what is raised.
            layers: Nodes of the layers to draw; None draws the twelve worst.

        Raises:
            ComparisonError: `compare` was called without `histograms=True`.
        """
        from quantizer_sdk.debug.plots import plot_histograms

        plot_histograms(self._chosen(layers, 12), path)

    def plot_channels(self, path: str | Path | IO[bytes], layers: Sequence[str] | None = None) -> None:
        """Draw the largest value of each channel, as a share of the layer's largest.

        Args:
            path: As in `plot_histograms`, and so is what is raised.
            layers: Nodes of the layers to draw; None draws the 24 worst.
        """
        from quantizer_sdk.debug.plots import plot_channels

        plot_channels(self._chosen(layers, 24), path)

    def _chosen(self, nodes: Sequence[str] | None, most: int) -> tuple[LayerError, ...]:
        """Return some layers, in the graph's order."""
        wanted = self.ranked()[:most] if nodes is None else [self.layer(node) for node in nodes]
        return tuple(layer for layer in self.layers if layer in wanted)

    def __str__(self) -> str:
        from quantizer_sdk.debug.text import as_text

        return as_text(self, _PRINTED)


def _worst_first(layer: LayerError) -> tuple[float, float]:
    sqnr = -math.inf if math.isnan(layer.sqnr) else layer.sqnr
    return (0.0 if layer.blame is None else -layer.blame, sqnr)


def _plain(record: LayerError | OutputError) -> dict[str, Any]:
    return {name: _number(value) for name, value in dataclasses.asdict(record).items()}


def _number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _number(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_number(item) for item in value]
    return value
