"""Which layers cost accuracy, and what the outputs gain where one is left float."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.fx import GraphModule

from quantizer_sdk.decibels import to_db
from quantizer_sdk.errors import NothingAnnotatedError
from quantizer_sdk.mixed.layers import Layer
from quantizer_sdk.mixed.noise import Source
from quantizer_sdk.mixed.rule_list import with_rules
from quantizer_sdk.mixed.trial import Workbench
from quantizer_sdk.table_quantizer import TableQuantizer

__all__ = ["LayerSensitivity", "Sensitivity", "sensitivity"]

_LEAST_LEFT = 1e-4  # of the noise: first order may promise to remove more than there is


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSensitivity:
    """What one layer costs.

    Attributes:
        name: The path of its module; "" for ops outside all submodules, which no module name tells apart.
        modules: The paths of all its modules.
        ops: The names of its ops in the graph.
        share: Its part of all noise in the outputs, of first order; what several layers want is shared equally. All of
            them add up to about 1; one below 0 makes up for the errors of others.
        weight_share: That part of it which rounding constants makes.
        estimated_gain: By how many dB the outputs get better where it alone is left float, of first order. A tensor
            that its neighbour wants rounded as well stays so.
        measured_gain: The same, measured; None where it was not.
    """

    name: str
    modules: tuple[str, ...]
    ops: tuple[str, ...]
    share: float
    weight_share: float
    estimated_gain: float
    measured_gain: float | None = None

    @property
    def gain(self) -> float:
        """The measured gain, else the estimated one; dB."""
        return self.estimated_gain if self.measured_gain is None else self.measured_gain


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """All layers of a model, in the order of the graph.

    Attributes:
        layers: The layers.
        sqnr: What was measured of the quantized model, dB.
        estimated_sqnr: The same of first order: where they are far apart, go by measured gains alone.
    """

    layers: tuple[LayerSensitivity, ...]
    sqnr: float
    estimated_sqnr: float

    def ranked(self) -> tuple[LayerSensitivity, ...]:
        """Return the layers by gain, the largest first; of equal ones that with the larger share."""
        return tuple(sorted(self.layers, key=lambda layer: (-layer.gain, -layer.share)))

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data; the layers ranked."""
        layers = [{**dataclasses.asdict(layer), "gain": layer.gain} for layer in self.ranked()]
        return {"sqnr": self.sqnr, "estimated_sqnr": self.estimated_sqnr, "layers": layers}

    def to_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        lines = [f"quantized: {self.sqnr:.2f} dB ({self.estimated_sqnr:.2f} dB of first order)"]
        lines.append(f"{'share':>7} {'weights':>8}  {'gain if float':>15}  layer")
        for layer in self.ranked():
            how = "estimated" if layer.measured_gain is None else "measured"
            gain = f"{layer.gain:+.2f} dB {how[:4]}."
            name = layer.name or f"(outside submodules: {', '.join(layer.ops[:3])})"
            lines.append(f"{100 * layer.share:>6.1f}% {100 * layer.weight_share:>7.1f}%  {gain:>15}  {name}")
        return "\n".join(lines)


def sensitivity(
    model: GraphModule,
    quantizer: TableQuantizer,
    data: Iterable[Any],
    *,
    evaluation: Iterable[Any] | None = None,
    measure: int = 5,
    probes: int = 32,
    progress: Callable[[str], None] | None = None,
) -> Sensitivity:
    """Rank the layers of a model by what its outputs gain where one is left float.

    The model is prepared, calibrated, converted and measured once; one sweep, of one forward and at least `probes`
    backward passes of the float model in all, estimates the gain of every layer; then the best `measure` of them are
    left float in turn, and each such model is prepared, calibrated, converted and measured. So the cost does not grow
    with the number of layers but by that of the passes themselves.

    Args:
        model: An exported float model for inference. It is left as it is.
        quantizer: What it is quantized with.
        data: Inputs as `calibrate` takes them; they are held in memory.
        evaluation: Inputs to measure on; None takes `data`.
        measure: How many layers' gains are measured.
        probes: At least how many random vectors the estimate asks, over all batches.
        progress: Is told in words what is done.

    Raises:
        RuleError: The quantizer is not made by a table.
        CalibrationError: There is no data, or no float output to compare.
        UnsupportedError: An op of the model has no derivative.
        QuantizerError: `prepare_pt2e` or `convert_pt2e` refuses the model or the quantizer.
    """
    tell = progress or (lambda _words: None)
    tell("running the float model")
    bench = Workbench.of(model, data, evaluation)
    tell("calibrating and measuring the quantized model")
    prepared, layers = bench.prepared(quantizer)
    figures, errors = bench.measured(prepared)
    tell("estimating what each layer costs")
    sources = bench.sources(prepared, layers, errors, probes)
    total = bench.reference.noise(errors)
    owned: dict[int, list[Source]] = defaultdict(list)
    for source in sources:
        for owner in source.owners:
            owned[owner].append(source)
    found = [_estimated(layer, owned[index], total) for index, layer in enumerate(layers.layers)]
    order = sorted(range(len(found)), key=lambda index: (-found[index].estimated_gain, -found[index].share))
    for index in [index for index in order if found[index].modules][:measure]:
        tell(f"measuring with {found[index].name} left float")
        try:
            after = bench.trial(with_rules(quantizer, layers, {index: None})).sqnr
        except NothingAnnotatedError:  # it is the only one, and without it the model is the float one
            after = math.inf
        gain = after - figures.sqnr if after != figures.sqnr else 0.0  # both may be infinite
        found[index] = dataclasses.replace(found[index], measured_gain=gain)
    together = sum((source.effect for source in sources), np.zeros(1))
    return Sensitivity(
        layers=tuple(found), sqnr=figures.sqnr, estimated_sqnr=to_db(1.0, float(np.square(together).sum()))
    )


def _estimated(layer: Layer, own: Sequence[Source], total: float) -> LayerSensitivity:
    alone = [source for source in own if len(source.owners) == 1]
    effect = sum((source.effect for source in alone), np.zeros(1))
    removed = 2 * sum(source.aligned for source in alone) - float(np.square(effect).sum())
    left = max(1 - removed / total, _LEAST_LEFT) if total > 0 else 1.0
    shares = [(source.aligned / len(source.owners) / total if total > 0 else 0.0, source.constant) for source in own]
    return LayerSensitivity(
        name=layer.name,
        modules=layer.modules,
        ops=layer.ops,
        share=sum(share for share, _constant in shares),
        weight_share=sum(share for share, constant in shares if constant),
        estimated_gain=to_db(1.0, left),
    )
