"""What a step of calibration costs, and what the ranges are worth: `python -m models.calibrating NAME --json OUT`."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from models.entry import Inputs
from models.outputs import flat
from models.x86_zoo import ENTRIES
from quantizer_sdk import calibrate, convert_pt2e, observers, prepare_pt2e
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.demo.metrics import interleaved_times, sqnr_db
from quantizer_sdk.observers.create import is_observer_call

__all__ = ["BATCH", "OURS", "THEIRS"]

OURS: dict[str, Any] = {
    "min-max": observers.MinMaxObserver,
    "moving average": observers.MovingAverageMinMaxObserver,
    "histogram": observers.HistogramObserver,
    "percentile": observers.PercentileObserver,
    "MSE": observers.MSEObserver,
}
THEIRS = {
    "min-max": "MinMaxObserver",
    "moving average": "MovingAverageMinMaxObserver",
    "histogram": "HistogramObserver",
}
"""torchao's observers, by the names of ours; it has none of the others for PT2E."""
BATCH = {"efficientnet_lite0": 4, "resnet18": 4, "minilm": 4}
"""The models, and the samples of a step."""


def _prepared(exported: GraphModule, observer: Any) -> GraphModule:
    """Prepare a model whose activations are watched by an observer, ours or torchao's, on one graph."""
    config = get_default_x86_quantization_config()
    watched = dataclasses.replace(config.input_activation, observer_or_fake_quant_ctr=observer.with_args())
    config = dataclasses.replace(config, input_activation=watched, output_activation=watched)
    return prepare_pt2e(exported, X86Quantizer("onednn").set_global(config))


def _without_observers(prepared: GraphModule) -> GraphModule:
    """Return the float32 graph that a prepared model is without its observers."""
    result = copy.deepcopy(prepared)
    modules = dict(result.named_modules())
    for node in list(result.graph.nodes):
        if is_observer_call(node, modules):
            node.replace_all_uses_with(node.all_input_nodes[0])
            result.graph.erase_node(node)
    result.recompile()
    return result


def _observers() -> dict[str, Any]:
    from torchao.quantization.pt2e import observer as peer

    return OURS | {f"torchao's {name}": getattr(peer, kind) for name, kind in THEIRS.items()}


def measure(name: str, rounds: int, draws: int) -> dict[str, dict[str, float]]:
    """Return, for each observer, the median of a step over the float32 forward of its round, and the SQNR in dB.

    Where weights are out of seeds, the SQNR is the mean over so many draws of them: from draw to draw two observers
    differ by up to half a decibel in either direction.
    """
    torch.set_num_threads(1)
    entry, kinds = ENTRIES[name], _observers()
    model, inputs = entry.build(entry.size), entry.examples(entry.size, entry.calibration + entry.held_out)
    step = tuple(torch.cat(parts) for parts in zip(*inputs[: BATCH[name]], strict=True))
    exported = torch.export.export(model, step).module()
    prepared = {kind: _prepared(exported, observer) for kind, observer in kinds.items()}
    prepared["float32"] = _without_observers(prepared["min-max"])
    with torch.no_grad():
        calls: dict[str, Callable[[], object]] = {kind: functools.partial(it, *step) for kind, it in prepared.items()}
        times = interleaved_times(calls, repeats=rounds, warmup=2, clock=time.process_time)
    figures = {"float32": {"milliseconds": statistics.median(times["float32"])}}
    drawn = [entry.drawn(entry.size, seed) for seed in range(1, draws)] if entry.drawn is not None else []
    for kind, observer in kinds.items():
        ratios = [own / plain for own, plain in zip(times[kind], times["float32"], strict=True)]
        sqnrs = [_sqnr(it, observer, inputs, entry.calibration) for it in (model, *drawn)]
        figures[kind] = {"ratio": statistics.median(ratios), "sqnr": statistics.mean(sqnrs), "draws": len(sqnrs)}
    return figures


@torch.no_grad()
def _sqnr(model: nn.Module, observer: Any, inputs: list[Inputs], calibration: int) -> float:
    """Return what is left of held-out outputs, in dB, where an observer chooses the ranges."""
    prepared = _prepared(torch.export.export(model, inputs[0]).module(), observer)
    calibrate(prepared, inputs[:calibration])
    quantized = convert_pt2e(prepared)
    expected, found = (torch.cat([flat(it(*example)) for example in inputs[calibration:]]) for it in (model, quantized))
    return sqnr_db(expected, found)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(BATCH))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.json.write_text(json.dumps(measure(options.name, options.rounds, options.draws)), encoding="utf-8")


if __name__ == "__main__":
    _main()
