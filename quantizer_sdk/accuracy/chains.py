"""Pairs of layers between which each channel can be scaled up in one and down in the other, and what lies between."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.accuracy.channel_ops import is_homogeneous
from quantizer_sdk.accuracy.channel_weights import inputs_of_a_channel
from quantizer_sdk.accuracy.quantized_layers import reads_constants
from quantizer_sdk.operands import argument
from quantizer_sdk.passes.clamp_forms import bounds_of_clamp
from quantizer_sdk.passes.fold_batch_norm import FOLDABLE
from quantizer_sdk.provenance import value_of

__all__ = ["Chain", "batched", "find_chains"]

_ATEN = torch.ops.aten
_ELEMENTWISE = frozenset({_ATEN.relu.default, _ATEN.relu_.default, _ATEN.leaky_relu.default, _ATEN.leaky_relu_.default})


@dataclass(frozen=True, slots=True)
class Chain:
    """A layer, the ops that its result alone goes through, and the layer that alone reads the last of these.

    Attributes:
        first: Whose output channels are scaled.
        between: In order; each gives s·f(x) for s·x, clamps as far as their bounds are not met.
        second: Whose input channels are scaled back.
    """

    first: Node
    between: tuple[Node, ...]
    second: Node

    @property
    def clamps(self) -> tuple[Node, ...]:
        """The ops between whose result a scale may change: clamps at other numbers than 0."""
        return tuple(node for node in self.between if not is_homogeneous(node) and not _is_relu(node))

    @property
    def by_channel(self) -> bool:
        """Whether each output channel of the second layer reads one input channel, as depthwise convolutions do."""
        return inputs_of_a_channel(self.second) == 1


def find_chains(model: GraphModule) -> tuple[list[Chain], dict[Node, str]]:
    """Return all chains of a graph, in its order, and for every other layer why none begins there."""
    found: list[Chain] = []
    reasons: dict[Node, str] = {}
    shared = _weights_read_twice(model)
    for node in model.graph.nodes:
        if node.target in FOLDABLE:
            chain = _from(node, shared)
            if isinstance(chain, Chain):
                found.append(chain)
            else:
                reasons[node] = chain
    return found, reasons


def _weights_read_twice(model: GraphModule) -> set[str]:
    seen: set[str] = set()
    twice: set[str] = set()
    for node in model.graph.find_nodes(op="get_attr"):
        for _ in node.users:
            (twice if str(node.target) in seen else seen).add(str(node.target))
    return twice


def _from(first: Node, shared: set[str]) -> Chain | str:
    """Follow a layer's result to the next layer, or say what is in the way."""
    if not _owns_constants(first, shared):
        return "its weight or bias is computed at run time, or other ops read it too"
    between: list[Node] = []
    current = first
    while True:
        users = list(current.users)
        if len(users) != 1:
            return f"{current.name} feeds {len(users)} ops"
        user = users[0]
        if user.target in FOLDABLE and argument(user, "input") is current:
            if not _owns_constants(user, shared):
                return f"the weight of {user.name} is computed at run time, or other ops read it too"
            if not _channels_meet(first, user):
                return f"{user.name} reads the channels of {first.name} on another axis"
            return Chain(first, tuple(between), user)
        if not _passes(first, user):
            return f"{user.name} does not pass a channel's scale on"
        between.append(user)
        current = user


def _owns_constants(layer: Node, shared: set[str]) -> bool:
    constants = [argument(layer, name) for name in ("weight", "bias")]
    return reads_constants(layer) and not any(node is not None and str(node.target) in shared for node in constants)


def _is_relu(node: Node) -> bool:
    return bounds_of_clamp(node) == (0.0, math.inf)


def _passes(first: Node, node: Node) -> bool:
    """Whether an op passes the scale of each channel on, at least where no bound is met."""
    bounds = bounds_of_clamp(node)
    if bounds is not None:
        return bounds[0] <= 0 <= bounds[1]
    if node.target in _ELEMENTWISE:
        return True
    return is_homogeneous(node) and batched(first)


def batched(layer: Node) -> bool:
    """Whether the channels of a layer's result lie on axis 1."""
    value, weight = value_of(layer), value_of(argument(layer, "weight"))
    return isinstance(value, torch.Tensor) and isinstance(weight, torch.Tensor) and value.dim() == weight.dim()


def _channels_meet(first: Node, second: Node) -> bool:
    """Whether the second layer reads channels where the first, and what is between, leave them."""
    channels = value_of(first), value_of(argument(second, "input"))
    if not all(isinstance(value, torch.Tensor) for value in channels):
        return False
    made, read = (value.shape[_axis_of_channels(layer)] for value, layer in zip(channels, (first, second), strict=True))
    linear = (first.target is _ATEN.linear.default, second.target is _ATEN.linear.default)
    if linear[0] != linear[1]:  # a convolution's channels are the last axis where a view has left no other
        return linear[1] and batched(first) and channels[1].dim() == 2 and bool(made == read)
    return bool(made == read)


def _axis_of_channels(layer: Node) -> int:
    rank = value_of(argument(layer, "weight")).dim()
    return -1 if layer.target is _ATEN.linear.default else 1 - rank
