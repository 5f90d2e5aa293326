"""Models with a planted fault, and whether `compare` or `explain` finds it: `python -m models.planted NAME BACKEND`."""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from models.entry import Entry, Inputs
from models.x86_zoo import ENTRIES
from quantizer_sdk import UnusedRuleWarning, calibrate, compare, explain, prepare_pt2e
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
        planted: Where: the layer's node, or those of the layers that a planted channel runs through.
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


def _quantizer(backend: str) -> Any:
    """Return a quantizer with its usual configuration, scales for each channel."""
    if backend == "x86":
        return X86Quantizer("onednn").set_global(get_default_x86_quantization_config())
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))


class _Subject:
    """A model that faults are planted in, and where they can be.

    Attributes:
        layers: Those of the healthy quantized model.
    """

    def __init__(self, name: str, backend: str, draw: int = 0) -> None:
        entry: Entry = ENTRIES[name]
        self.name, self.backend = name, backend
        self._batches = entry.examples(entry.size, _CALIBRATION + _COMPARED)
        module = entry.build(entry.size)
        self.model = tidy(torch.export.export(module, self._batches[0]).module())
        self._draw = random.Random(f"{name} {backend}{draw or ''}")
        self._prepared = self._prepare(self.model)
        self.layers = compare(self.model, self._prepared, self._data, blame=False).layers

    @property
    def _data(self) -> list[Inputs]:
        return self._batches[_CALIBRATION:]

    def _prepare(self, model: GraphModule, quantizer: Any = None) -> GraphModule:
        prepared = prepare_pt2e(model, quantizer or _quantizer(self.backend))
        calibrate(prepared, self._batches[:_CALIBRATION])
        return prepared

    def cases(self) -> Iterator[Case]:
        """Plant one fault of each kind, where a draw says."""
        yield self._scale(FAULTS[0], self._activations())
        yield self._scale(FAULTS[1], self._weights())
        pairs = self._pairs()
        for fault, pair in zip(FAULTS[2:4], self._draw.sample(pairs, 2), strict=True):
            yield self._outlier(fault, *pair)
        yield self._typo()

    def _calls(self) -> dict[str, Node]:
        return {node.name: node for node in self._prepared.graph.nodes}

    def _activations(self) -> dict[str, Node]:
        """Return the observers of results, by layer: those by which no other op rounds but such as move its codes."""
        modules, nodes = dict(self._prepared.named_modules()), self._calls()
        found = {}
        for layer in self.layers:
            if not layer.rounded or layer.op == "placeholder":
                continue
            (call, *_) = [it for it in nodes[layer.members[-1]].users if is_observer_call(it, modules)]
            same = [it for it in nodes.values() if it.op == "call_module" and it.target == call.target]
            if all(it is call or it.kwargs.get("seen") for it in same):
                found[layer.node] = call
        return found

    def _weights(self) -> dict[str, Node]:
        nodes = self._calls()
        return {layer.node: nodes[layer.node].args[1] for layer in self.layers if _is_gemm(nodes[layer.node])}  # type: ignore[misc]

    def _scale(self, fault: str, able: dict[str, Node]) -> Case:
        """Let one observer choose a scale that is too large."""
        planted = self._draw.choice(list(able))
        observer: Any = self._prepared.get_submodule(str(able[planted].target))
        scale, zero_point = observer.calculate_qparams()
        observer.calculate_qparams = lambda: (scale * _LARGER, zero_point)
        try:
            return self._judged(fault, [planted], self.model, self._prepared)
        finally:
            del observer.calculate_qparams

    def _pairs(self) -> list[tuple[str, str]]:
        """Return layers whose results only one other layer reads, behind clamps and the like, and that layer."""
        nodes = {node.name: node for node in self.model.graph.nodes}
        found = []
        for layer in self.layers:
            node = nodes.get(layer.node)
            if node is None or not _is_gemm(node):
                continue
            source = node.all_input_nodes[0]
            while _is_elementwise(source) and len(source.users) == 1:
                source = source.all_input_nodes[0]
            if _is_gemm(source) and len(source.users) == 1:
                found.append((source.name, node.name))
        return found

    def _outlier(self, fault: str, first: str, second: str) -> Case:
        """Make one channel between two layers larger or smaller than all others, in a network that computes the same.

        Where the result between them is unbounded and of many channels, its values are larger, and the first layer is
        where it goes wrong. Else they are smaller, and the weights of the second that make up for it are larger.
        """
        model = tidy(self.model)
        nodes = {node.name: node for node in model.graph.nodes}
        source, reader = nodes[first], nodes[second]
        larger = "linear" in str(source.target)
        factor = _OUTLIER if larger else 1 / _OUTLIER
        channel = self._draw.randrange(_tensor(model, source.args[1]).shape[0])
        for operand in source.args[1:3]:
            if operand is not None:
                _change(model, operand, channel, factor, axis=0)
        _change(model, reader.args[1], channel, 1 / factor, axis=1)
        planted = [first, *_between(source, reader)] if larger else [second]
        return self._judged(fault, planted, model, self._prepare(model))

    def _judged(self, fault: str, planted: list[str], model: GraphModule, quantized: GraphModule) -> Case:
        first, second, *_ = compare(model, quantized, self._data).ranked()
        shares = (float(first.blame or 0), float(second.blame or 0))
        return self._case(fault, " and ".join(planted), first.node, first.node in planted, shares)

    def _case(self, fault: str, planted: str, found: str, hit: bool, shares: tuple[float, float] | None = None) -> Case:
        blame, following = shares or (None, None)
        return Case(
            model=self.name,
            backend=self.backend,
            fault=fault,
            planted=planted,
            found=found,
            hit=hit,
            blame=blame,
            next=following,
        )

    def _typo(self) -> Case:
        """Quantize every module by a rule of its own, one of which has a letter too many."""
        nodes = {node.name: node for node in self.model.graph.nodes}
        victims = [it for it in self.layers if it.node in nodes and _is_gemm(nodes[it.node]) and it.module]
        planted = self._draw.choice(victims)
        misspelt = f"{planted.module}s"
        quantizer = X86Quantizer("onednn") if self.backend == "x86" else XNNPACKQuantizer()
        config = _quantizer(self.backend)._rules.global_config[0]
        for path in dict.fromkeys(it.module for it in victims):
            quantizer.set_module_name(misspelt if path == planted.module else path, config)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            explanation = explain(self.model, quantizer)
        words = [str(it.message) for it in caught if issubclass(it.category, UnusedRuleWarning)]
        words += list(explanation.notes)
        left = [op.node for op in explanation.float_ops() if op.module == planted.module]
        named = any(misspelt in word for word in words)
        found = f"{', '.join(left)} is float; the rule for {misspelt!r} is unused" if named else ", ".join(left)
        return self._case(FAULTS[4], planted.node, found, named and planted.node in left)


def _is_gemm(node: Node) -> bool:
    """Whether a node is a linear layer, or a convolution of all channels at once, by a weight of its own."""
    kind = getattr(node.target, "__name__", "").split(".")[0]
    grouped = kind == "conv2d" and len(node.args) > 6 and node.args[6] != 1
    return kind in {"conv2d", "linear"} and not grouped


def _is_elementwise(node: Node) -> bool:
    kind = getattr(node.target, "__name__", "").split(".")[0]
    return kind in {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "gelu", "max_pool2d"}


def _between(first: Node, last: Node) -> Iterator[str]:
    """Yield the ops that the result of one layer goes through before another reads it."""
    node = last.all_input_nodes[0]
    while node is not first:
        yield node.name
        node = node.all_input_nodes[0]


def _tensor(model: GraphModule, node: Any) -> torch.Tensor:
    return model.get_parameter(str(node.target))


def _change(model: GraphModule, node: Any, channel: int, factor: float, axis: int) -> None:
    """Scale one slice of a parameter, in a copy of it that takes its place."""
    value = _tensor(model, node).detach().clone()
    value.select(axis, channel).mul_(factor)
    path, _, name = str(node.target).rpartition(".")
    setattr(model.get_submodule(path), name, nn.Parameter(value, requires_grad=False))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("--draw", type=int, default=0, help="another number plants in other layers")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases = [asdict(case) for case in _Subject(options.model, options.backend, options.draw).cases()]
    options.json.write_text(json.dumps({"cases": cases}), encoding="utf-8")


if __name__ == "__main__":
    _main()
