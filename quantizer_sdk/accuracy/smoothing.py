"""Move the outliers of activations into weights, where each channel has a scale of its own.

SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): x·W = (x / s)·(s·W) for any s > 0 for each input channel. Here s is a
power of two, so that the float model computes the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants
from quantizer_sdk.errors import InvalidSpecError, NotExportedError
from quantizer_sdk.model_copy import copy_model
from quantizer_sdk.operands import argument, replace_argument
from quantizer_sdk.passes.call_before import call_before
from quantizer_sdk.provenance import value_of
from quantizer_sdk.watched_run import WatchedRun

__all__ = ["smooth_quant"]

_ATEN = torch.ops.aten


def smooth_quant(model: GraphModule, batches: Iterable[Any], *, alpha: float = 0.5) -> GraphModule:
    """Return a float model that is quantized with less noise where channels of activations differ in magnitude.

    For transformers whose linear layers are quantized. The operand of a linear layer is divided by a power of two for
    each channel, in the layer norm before it where nothing else reads that, else by an op of its own, and its weight
    is multiplied by the same. Layers that read one tensor share the divisors. Use it before `prepare_pt2e`.

    Args:
        model: An exported float model for inference. It is left as it is.
        batches: Inputs as `calibrate` takes them; the magnitude of each channel is looked at.
        alpha: How much of the difference between channels goes to the weight: 0 leaves it to activations, 1 takes all.

    Returns:
        A model that computes the same numbers, save for those that leave float32's range.

    Raises:
        InvalidSpecError: `alpha` is not within 0 and 1.
        CalibrationError: A batch is no tensor, tuple or dict of inputs.
        NotExportedError: The model is no graph module.
    """
    if not 0 <= alpha <= 1:
        raise InvalidSpecError(f"alpha={alpha}; expected a number from 0 to 1")
    if not isinstance(model, GraphModule):
        raise NotExportedError(f"smooth_quant was given a {type(model).__name__}; pass an exported graph module")
    result = copy_model(model)
    groups = _groups(result)
    magnitudes = _Magnitudes()
    WatchedRun(result, groups, magnitudes.take_in).run_batches(batches)
    constants = Constants(result)
    for source, layers in groups.items():
        if source in magnitudes:
            _divide(constants, source, layers, magnitudes[source], alpha)
    result.graph.lint()
    result.recompile()
    return result


def _groups(model: GraphModule) -> dict[Node, list[Node]]:
    """Return the linear layers by constant weights, by the node that they read."""
    found: dict[Node, list[Node]] = {}
    for node in model.graph.find_nodes(op="call_function", target=_ATEN.linear.default):
        source, weight = argument(node, "input"), argument(node, "weight")
        if isinstance(weight, Node) and weight.op == "get_attr" and source.op != "get_attr":
            found.setdefault(source, []).append(node)
    return found


class _Magnitudes(dict[Node, torch.Tensor]):
    """The largest magnitude of each channel of some nodes."""

    def take_in(self, node: Node, value: torch.Tensor) -> None:
        """Look at what a node gives."""
        if value.numel():
            largest = value.detach().abs().reshape(-1, value.shape[-1]).amax(0).float()
            self[node] = torch.maximum(self[node], largest) if node in self else largest


def _divide(constants: Constants, source: Node, layers: list[Node], magnitude: torch.Tensor, alpha: float) -> None:
    """Divide what layers read, and multiply their weights."""
    weights = [constants.read(argument(layer, "weight")).detach() for layer in layers]
    heaviest = torch.stack([weight.abs().amax(0).float() for weight in weights]).amax(0)
    divisor = _powers_of_two(magnitude, heaviest, alpha)
    if bool((divisor == 1).all()):
        return
    _scale_source(constants, source, layers, 1 / divisor)
    for layer, weight in zip(layers, weights, strict=True):
        old = argument(layer, "weight")
        with layer.graph.inserting_before(layer):
            smoothed = nn.Parameter(weight * divisor.to(weight), requires_grad=False)
            new = constants.add(f"{old.target}_smoothed", smoothed, like=old)
        replace_argument(layer, "weight", new)
        constants.release(old)


def _powers_of_two(magnitude: torch.Tensor, heaviest: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the powers of two next to magnitude^alpha / heaviest^(1 - alpha), 1 for channels without a signal."""
    exponent = alpha * magnitude.double().log2() - (1 - alpha) * heaviest.double().log2()
    powers = torch.exp2(exponent.round())
    return torch.where(torch.isfinite(powers) & (powers > 0), powers, 1.0).float()


def _scale_source(constants: Constants, source: Node, layers: list[Node], factor: torch.Tensor) -> None:
    """Multiply what layers read: in the layer norm that makes it for them alone, or by an op of its own."""
    if source.target is _ATEN.layer_norm.default and set(source.users) == set(layers):
        parts = {name: argument(source, name) for name in ("weight", "bias")}
        if all(isinstance(part, Node) and part.op == "get_attr" for part in parts.values()):
            for name, old in parts.items():
                with source.graph.inserting_before(source):
                    value = constants.read(old).detach()
                    scaled = nn.Parameter(value * factor.to(value), requires_grad=False)
                    new = constants.add(f"{old.target}_smoothed", scaled, like=old)
                replace_argument(source, name, new)
                constants.release(old)
            return
    first = min(layers)
    with source.graph.inserting_before(first):
        reciprocal = constants.add(f"{source.name}_divisor", factor.to(value_of(source).dtype), like=source)
    divided = call_before(first, _ATEN.mul.Tensor, source, reciprocal)
    for layer in layers:
        replace_argument(layer, "input", divided)
