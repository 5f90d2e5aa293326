"""Train a layer and the batch norm behind it as the one layer that they will be in inference.

While the graph is annotated the norm is hidden, as folding would hide it (`hide_batch_norm`). Then the layer is written
as y = layer(x, fq(W·γ/σ)) / (γ/σ) (+ bias), and the norm follows as it was (`show_batch_norm`): what is rounded is the
weight that the kernel will have, while the norm sees and learns what it would without quantization. At conversion both
are folded (`settle_batch_norm`). The form is that of Krishnamoorthi, Quantizing deep convolutional networks for
efficient inference, 2018, §3.2.2, with running statistics in place of a batch's own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.library import custom_op

from quantizer_sdk.constants import Constants, erase_unused, sibling
from quantizer_sdk.decision import absorb
from quantizer_sdk.observers.create import is_observer_call
from quantizer_sdk.operands import argument, replace_argument
from quantizer_sdk.passes.fold_batch_norm import (
    FOLDABLE,
    folded_bias,
    output_scale_shape,
    scale_of_norm,
    why_never_folded,
)

__all__ = ["count_batches", "hide_batch_norm", "settle_batch_norm", "show_batch_norm"]

_ATEN = torch.ops.aten
_KEY = "quantizer_sdk_batch_norm"
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Norm:
    """A hidden batch norm. Tensors are given by the names that their get_attr nodes had.

    Attributes:
        tensors: weight, bias, running mean, running variance.
        counter: The number of batches tracked, if the model counts them.
        rest: momentum, eps and the cudnn flag, as the user gave them.
        layer_bias: Whether the layer has a bias of its own.
        bias_observer: Name of the fake quantizer of the bias that folding makes; None for none.
        meta: What the norm's node knew.
    """

    tensors: tuple[str | None, ...]
    counter: str | None
    rest: tuple[Any, ...]
    layer_bias: bool
    bias_observer: str | None = None
    meta: dict[str, Any]

    @property
    def eps(self) -> float:
        """What is added to the variance."""
        return float(self.rest[1])


@custom_op("quantizer_sdk::deviation", mutates_args=())
def _deviation(variance: torch.Tensor, eps: float) -> torch.Tensor:
    """Return σ as running statistics have it.

    An op of its own, for compilers must not look inside: they would compute it anew in the backward pass, after the
    norm has written into the variance.
    """
    return torch.sqrt(variance + eps)


@_deviation.register_fake
def _(variance: torch.Tensor, eps: float) -> torch.Tensor:  # noqa: ARG001  # the signature of the op
    return torch.empty_like(variance)


# Hiding


def hide_batch_norm(model: GraphModule) -> None:
    """Hide every norm that will be folded in inference.

    Each layer reads its weight by a node of its own afterwards, for each is scaled by its own norm, and has a bias.
    """
    constants = Constants(model)
    readers: dict[str, list[Node]] = {}
    for node in model.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), []).append(node)
    for norm in list(model.graph.nodes):
        if norm.target is _ATEN.batch_norm.default and why_never_folded(norm) is None:
            _hide(model, constants, readers, norm)


def _hide(model: GraphModule, constants: Constants, readers: dict[str, list[Node]], norm: Node) -> None:
    layer: Node = argument(norm, "input")
    weight, bias = argument(layer, "weight"), argument(layer, "bias")
    operands = [argument(norm, name) for name in ("weight", "bias", "running_mean", "running_var")]
    mean = str(operands[2].target)
    layer.meta[_KEY] = _Norm(
        tensors=tuple(None if node is None else str(node.target) for node in operands),
        counter=_hide_counter(model, readers, mean),
        rest=tuple(argument(norm, name) for name in ("momentum", "eps", "cudnn_enabled")),
        layer_bias=bias is not None,
        meta=dict(norm.meta),
    )
    absorb(layer, norm)
    norm.replace_all_uses_with(layer)
    model.graph.erase_node(norm)
    with model.graph.inserting_before(layer):
        replace_argument(layer, "weight", constants.again(str(weight.target), like=weight))
        if bias is not None:
            own = constants.again(str(bias.target), like=bias)
        else:
            channels, example = constants.tensor(mean).shape[0], constants.read(weight)
            zeros = torch.zeros(channels, dtype=example.dtype, device=example.device)
            own = constants.add(sibling(str(weight.target), "bias"), zeros, like=weight)
        replace_argument(layer, "bias", own)
    for node in dict.fromkeys((weight, bias, *operands)):
        if node is not None and not node.users:
            model.graph.erase_node(node)  # the tensor stays, for it is needed again


def _hide_counter(model: GraphModule, readers: dict[str, list[Node]], mean: str) -> str | None:
    """Remove the ops that count batches beside a running mean, and return the counter's name."""
    name = sibling(mean, _COUNTER)
    for node in readers.pop(name, ()):
        counts = [node]  # of a norm called several times, each counts on
        while len(counts[-1].users) == 1 and (user := next(iter(counts[-1].users))).target is _ATEN.add_.Tensor:
            counts.append(user)
        while counts and not counts[-1].users:
            model.graph.erase_node(counts.pop())
    return name if hasattr(model.get_submodule(mean.rpartition(".")[0]), _COUNTER) else None


def count_batches(model: GraphModule) -> None:
    """Let norms that were exported for inference count their batches again, as they will when they train."""
    counters = {str(node.target): node for node in model.graph.nodes if node.op == "get_attr" and not node.users}
    for norm in list(model.graph.nodes):
        mean = argument(norm, "running_mean") if norm.target is _ATEN.batch_norm.default else None
        if mean is None:
            continue
        counter = counters.pop(sibling(str(mean.target), _COUNTER), None)
        if counter is not None:
            _after(model.graph, norm, _ATEN.add_.Tensor, (counter, 1))


# Training


def show_batch_norm(model: GraphModule) -> None:
    """Write every layer with a hidden norm in its form for training. The norm trains, until it follows the mode."""
    constants, modules = Constants(model), dict(model.named_modules())
    for layer in list(model.graph.nodes):
        norm = layer.meta.get(_KEY)
        if isinstance(norm, _Norm):
            _show(model, constants, modules, layer, norm)


def _show(model: GraphModule, constants: Constants, modules: dict[str, nn.Module], layer: Node, norm: _Norm) -> None:
    graph = model.graph
    weight, rounding = _behind_observers(argument(layer, "weight"), modules)
    bias, bias_rounding = _behind_observers(argument(layer, "bias"), modules)
    rank = constants.read(weight).dim()
    replace_argument(layer, "bias", None)
    for call in bias_rounding:
        graph.erase_node(call)
    observers = [str(call.target) for call in bias_rounding]
    layer.meta[_KEY] = dataclasses.replace(norm, bias_observer=observers[-1] if observers else None)
    with graph.inserting_before(layer):
        gamma, beta, mean, variance = (None if name is None else constants.again(name) for name in norm.tensors)
        assert variance is not None
        sigma = graph.call_function(torch.ops.quantizer_sdk.deviation.default, (variance, norm.eps))
        if gamma is None:
            factor = graph.call_function(_ATEN.reciprocal.default, (sigma,))
        else:
            factor = graph.call_function(_ATEN.div.Tensor, (gamma, sigma))
        scaled = _scaled(graph, layer, weight, factor, constants.read(weight).shape)
    weight.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)
    for call in reversed(rounding):
        layer.prepend(call)  # after the weight is scaled
    spread, readers = output_scale_shape(layer, rank), list(layer.users)
    divisor = _after(graph, layer, _ATEN.reshape.default, (factor, spread))
    result = _after(graph, divisor, _ATEN.div.Tensor, (layer, divisor))
    if norm.layer_bias:
        shift = _after(graph, result, _ATEN.reshape.default, (bias, spread))
        result = _after(graph, shift, _ATEN.add.Tensor, (result, shift))
    else:
        constants.release(bias)
    trained = _after(graph, result, _ATEN.batch_norm.default, (result, gamma, beta, mean, variance, True, *norm.rest))
    trained.meta.update(norm.meta)
    for reader in readers:
        reader.replace_input_with(layer, trained)
    if norm.counter is not None:
        with graph.inserting_after(trained):
            counter = constants.again(norm.counter)
        _after(graph, counter, _ATEN.add_.Tensor, (counter, 1))


def _scaled(graph: Graph, layer: Node, weight: Node, factor: Node, shape: torch.Size) -> Node:
    """Write the scaling of a weight by one factor for each output channel, as folding does it, in ops."""
    assert isinstance(layer.target, torch._ops.OpOverload)
    if FOLDABLE[layer.target] == 0:
        spread = graph.call_function(_ATEN.reshape.default, (factor, [-1] + [1] * (len(shape) - 1)))
    else:
        groups = argument(layer, "groups")
        by_group = graph.call_function(_ATEN.reshape.default, (factor, [groups, 1, -1]))
        wide = graph.call_function(_ATEN.expand.default, (by_group, [groups, shape[0] // groups, shape[1]]))
        spread = graph.call_function(_ATEN.reshape.default, (wide, [shape[0], shape[1]] + [1] * (len(shape) - 2)))
    return graph.call_function(_ATEN.mul.Tensor, (weight, spread))


def _after(graph: Graph, anchor: Node, target: Any, args: tuple[Any, ...]) -> Node:
    with graph.inserting_after(anchor):
        return graph.call_function(target, args)


def _behind_observers(node: Node, modules: dict[str, nn.Module]) -> tuple[Node, list[Node]]:
    """Return what lies behind the calls of observers, and these, the last one first."""
    calls = []
    while is_observer_call(node, modules):
        calls.append(node)
        node = node.all_input_nodes[0]
    return node, calls


# Settling


def settle_batch_norm(model: GraphModule) -> None:
    """Fold every norm that trained with its layer: what was rounded in training is rounded again, to the same codes."""
    constants, modules = Constants(model), dict(model.named_modules())
    for layer in list(model.graph.nodes):
        norm = layer.meta.pop(_KEY, None)
        if isinstance(norm, _Norm):
            _settle(model, constants, modules, layer, norm)


def _settle(model: GraphModule, constants: Constants, modules: dict[str, nn.Module], layer: Node, norm: _Norm) -> None:
    graph = model.graph
    scaled, rounding = _behind_observers(argument(layer, "weight"), modules)
    weight_name = str(scaled.all_input_nodes[0].target)
    trained = next(iter(layer.users))
    bias: Node | None = None
    while trained.target is not _ATEN.batch_norm.default:
        if trained.target is _ATEN.add.Tensor:
            bias = trained.all_input_nodes[1].all_input_nodes[0]
        (trained,) = trained.users
    weight = constants.compute(scaled, {})  # by the ops that training ran, to the bit
    shift = _folded_bias(constants, norm, bias, weight.dtype)
    bias_name = sibling(weight_name, "bias") if bias is None else str(bias.target)
    trained.replace_all_uses_with(layer)
    first = rounding[-1] if rounding else None
    if first is None:
        replace_argument(layer, "weight", None)
    else:
        first.args = ()
    for node in (*erase_unused(trained), *erase_unused(scaled)):
        constants.release(node)
    if norm.counter is not None:
        for node in graph.find_nodes(op="get_attr", target=norm.counter):
            for user in list(node.users):
                graph.erase_node(user)
            constants.release(node)
    with graph.inserting_before(rounding[-1] if rounding else layer):
        folded = constants.add(weight_name, nn.Parameter(weight), like=layer)
        moved: Node = constants.add(bias_name, nn.Parameter(shift), like=layer)
    if first is None:
        replace_argument(layer, "weight", folded)
    else:
        first.args = (folded,)
    if norm.bias_observer is not None:
        with graph.inserting_before(layer):
            moved = graph.call_module(norm.bias_observer, (moved,))
    replace_argument(layer, "bias", moved)


def _folded_bias(constants: Constants, norm: _Norm, bias: Node | None, dtype: torch.dtype) -> torch.Tensor:
    """Return (bias - mean) · γ/σ + β, computed in float64."""
    gamma, beta, mean, variance = (
        None if name is None else constants.tensor(name).detach().to(torch.float64) for name in norm.tensors
    )
    assert mean is not None
    assert variance is not None
    before = None if bias is None else constants.read(bias).detach().to(torch.float64)
    return folded_bias(before, scale_of_norm(gamma, variance, norm.eps), beta, mean).to(dtype)
