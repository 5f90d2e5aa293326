"""Models with a fault that somebody planted, and whether `compare` or `explain` finds it: `python -m models.planted`."""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from models.entry import Entry, Inputs
from models.x86_zoo import ENTRIES
from quantizer_sdk import LayerError, UnusedRuleWarning, calibrate, compare, explain, prepare_pt2e
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.observers.create import is_observer_call
from quantizer_sdk.quantize_pt2e import tidy

__all__ = ["BACKENDS", "FAULTS", "MODELS", "Case"]

MODELS = ("efficientnet_lite0", "minilm", "resnet18")
BACKENDS = ("xnnpack", "x86")
FAULTS = ("activation scale x8", "weight scale x8", "outlier channel", "outlier channel again", "rule with a typo")
_LARGER = 8.0
_OUTLIER = 64.0
_CALIBRATION, _COMPARED = 8, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One planted fault.

    Attributes:
        model: Name of the model.
        backend: Whose quantizer.
        fault: Which fault.
        planted: Where: the layer's node.
        found: What was ranked first, or what `explain` names.
        hit: Whether these are the same.
        blame: The first layer's share.
        next: The second layer's.
    """

    model: str
    backend: str
    fault: str
    planted: str
    found: str
    hit: bool
    blame: float | None = None
    next: float | None = None


def _config(backend: str, *, per_channel: bool = True) -> Any:
    if backend == "x86":
        return get_default_x86_quantization_config(is_per_channel=per_channel)
    return get_symmetric_quantization_config(is_per_channel=per_channel)


def _quantizer(backend: str) -> Any:
    return X86Quantizer("onednn") if backend == "x86" else XNNPACKQuantizer()


def _prepared(model: GraphModule, quantizer: Any, batches: list[Inputs]) -> GraphModule:
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, batches)
    return prepared


def _enlarge(prepared: GraphModule, call: Node) -> None:
    """Let an observer choose a scale that is too large."""
    observer: Any = prepared.get_submodule(str(call.target))
    scale, zero_point = observer.calculate_qparams()
    observer.calculate_qparams = lambda: (scale * _LARGER, zero_point)


def _observers(prepared: GraphModule) -> dict[str, list[Node]]:
    """Return the calls of observers by the name of what they watch, and those of weights by the layer's."""
    modules = dict(prepared.named_modules())
    return {
        node.name: [user for user in node.users if is_observer_call(user, modules)] for node in prepared.graph.nodes
    }


def _weighted(layer: LayerError) -> bool:
    return any(word in layer.op for word in ("conv", "linear"))


def _alone(prepared: GraphModule, layer: LayerError) -> bool:
    """Whether no other op rounds by the qparams of this layer's result, but those that move its codes."""
    calls = _observers(prepared)[layer.members[-1]]
    same = [node for node in prepared.graph.nodes if node.op == "call_module" and calls and node.target == calls[0].target]
    return bool(calls) and all(node is calls[0] or node.kwargs.get("seen") for node in same)


def _scale_cases(
    name: str, backend: str, model: GraphModule, batches: list[Inputs], draw: random.Random
) -> Iterator[Case]:
    prepared = _prepared(model, _quantizer(backend).set_global(_config(backend)), batches[:_CALIBRATION])
    data = batches[_CALIBRATION : _CALIBRATION + _COMPARED]
    layers = compare(model, prepared, data, blame=False).layers
    able = [layer for layer in layers if layer.rounded and layer.op != "placeholder" and _alone(prepared, layer)]
    chosen = draw.choice(able)
    (call, *_) = _observers(prepared)[chosen.members[-1]]
    yield _judged(name, backend, FAULTS[0], chosen.node, model, _with(prepared, call), data)

    chosen = draw.choice([layer for layer in layers if _weighted(layer)])
    prepared = _prepared(model, _quantizer(backend).set_global(_config(backend)), batches[:_CALIBRATION])
    (node,) = [it for it in prepared.graph.nodes if it.name == chosen.node]
    yield _judged(name, backend, FAULTS[1], chosen.node, model, _with(prepared, node.args[1]), data)


def _with(prepared: GraphModule, call: Node) -> GraphModule:
    _enlarge(prepared, call)
    return prepared


def _judged(
    name: str, backend: str, fault: str, planted: str, model: GraphModule, quantized: GraphModule, data: list[Inputs]
) -> Case:
    first, second, *_ = compare(model, quantized, data).ranked()
    return Case(
        model=name,
        backend=backend,
        fault=fault,
        planted=planted,
        found=first.node,
        hit=first.node == planted,
        blame=first.blame,
        next=second.blame,
    )


def _readers(node: Node) -> Iterator[Node]:
    """Yield the ops that read a value, through observers and moves."""
    for user in node.users:
        if user.op == "call_module" or getattr(user.target, "__name__", "").split(".")[0] in {"view", "reshape", "flatten", "permute", "transpose", "max_pool2d"}:
            yield from _readers(user)
        else:
            yield user
