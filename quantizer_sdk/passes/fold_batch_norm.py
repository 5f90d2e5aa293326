"""Fold batch normalization in inference mode into the convolution or linear layer before it.

Requires an exported graph. Ensures: no foldable pair is left; the weights of the user's own model are untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants, sibling
from quantizer_sdk.decision import absorb
from quantizer_sdk.operands import argument, replace_argument
from quantizer_sdk.provenance import value_of
from quantizer_sdk.refusal import MULTI_USER, NOT_FOLDED, Refusal, as_refusal

__all__ = [
    "FOLDABLE",
    "NORM_KEY",
    "Normal",
    "fold_batch_norm",
    "folded_bias",
    "normal_of",
    "output_scale_shape",
    "scale_of_norm",
    "scaled_by_output",
    "why_never_folded",
    "why_not_folded",
]

_ATEN = torch.ops.aten

FOLDABLE: dict[torch._ops.OpOverload, int] = {
    # The axis of the weight that holds the output channels.
    _ATEN.conv1d.default: 0,
    _ATEN.conv1d.padding: 0,
    _ATEN.conv2d.default: 0,
    _ATEN.conv2d.padding: 0,
    _ATEN.conv3d.default: 0,
    _ATEN.conv3d.padding: 0,
    _ATEN.conv_transpose1d.default: 1,
    _ATEN.conv_transpose2d.input: 1,
    _ATEN.conv_transpose3d.input: 1,
    _ATEN.linear.default: 0,
}
NORM_KEY = "quantizer_sdk_norm"
"""Where the metadata of a layer has the `Normal` that its result is by the batch norm that was folded into it."""

_BATCH_NORM = _ATEN.batch_norm.default
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class Normal:
    """What batch norm makes of each channel, as far as its running statistics hold: float64 [channels] each.

    Attributes:
        mean: β.
        deviation: |γ|.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def scaled(self, factor: torch.Tensor) -> Normal:
        """Return that of a result whose channels are multiplied by positive numbers."""
        return Normal(self.mean * factor, self.deviation * factor)


@dataclass(frozen=True, slots=True)
class _Key:
    """What a folded pair of weights depends on; equal pairs, as of a module called twice, are folded once."""

    op: torch._ops.OpOverload
    tensors: tuple[int | None, ...]
    eps: float
    groups: int


def fold_batch_norm(model: GraphModule) -> None:
    """Fold every batch norm that `why_not_folded` has nothing against.

    The arithmetic is done in float64 and rounded once. A weight that other nodes read too gets a folded copy of
    its own, so shared weights are neither folded twice nor changed under their other users.
    """
    constants = Constants(model)
    stored: dict[_Key, tuple[Node, Node]] = {}
    made: set[Node] = set()
    for norm in list(model.graph.nodes):
        if norm.target is not _BATCH_NORM or why_not_folded(norm) is not None:
            continue
        layer: Node = argument(norm, "input")
        old = _tensors(layer, norm)
        key = _key(constants, layer, norm)
        values = None if key in stored else _fold(constants, layer, norm)
        absorb(layer, norm)
        layer.meta[NORM_KEY] = normal_of(constants, norm)
        norm.replace_all_uses_with(layer)
        model.graph.erase_node(norm)
        replace_argument(layer, "weight", None)
        replace_argument(layer, "bias", None)
        for node in dict.fromkeys(old):
            if node not in made:  # a later call of the same modules may want it still
                constants.release(node)
        if values is not None:
            target = str(old[0].target)
            with model.graph.inserting_before(layer):
                stored[key] = (
                    constants.add(target, values[0], like=old[0]),
                    constants.add(sibling(target, "bias"), values[1], like=old[0]),
                )
            made.update(stored[key])
        replace_argument(layer, "weight", stored[key][0])
        replace_argument(layer, "bias", stored[key][1])
    for pair in stored.values():
        for node in pair:
            constants.release(node)


def why_not_folded(norm: Node) -> Refusal | None:
    """Return what keeps a batch norm from being folded now, in words for the user, or None."""
    never = why_never_folded(norm)
    if never is None and argument(norm, "training"):
        words = "batch_norm was exported in training mode; call model.eval() before exporting"
        return Refusal(words, cause=NOT_FOLDED, advice="export model.eval()")
    return never


def why_never_folded(norm: Node) -> Refusal | None:
    """Return what keeps a batch norm from being folded in inference, in words for the user, or None."""
    layer = argument(norm, "input")
    if isinstance(layer, Node) and layer.target in FOLDABLE and len(layer.users) > 1:
        others = ", ".join(user.name for user in layer.users if user is not norm)
        words = f"{layer.name} also feeds {others}, so batch_norm cannot be folded into it"
        advice = f"let {others} read what is behind batch_norm, or compute {layer.name} once for each"
        return Refusal(words, cause=MULTI_USER, advice=advice)
    why = _why_no_pair(norm)
    return None if why is None else as_refusal(why, NOT_FOLDED)


def _why_no_pair(norm: Node) -> str | None:
    layer = argument(norm, "input")
    if not isinstance(layer, Node) or layer.target not in FOLDABLE:
        return f"batch_norm follows {layer}, which is no convolution or linear layer to fold it into"
    constants = _tensors(layer, norm)
    for constant in constants:
        if constant is not None and (not isinstance(constant, Node) or constant.op != "get_attr"):
            return f"{constant} is computed at run time, so batch_norm cannot be folded into {layer.name}"
    if argument(norm, "running_mean") is None or argument(norm, "running_var") is None:
        return "batch_norm keeps no running statistics, so it normalizes by the data of each run"
    value, weight = value_of(layer), value_of(constants[0])
    if isinstance(value, torch.Tensor) and isinstance(weight, torch.Tensor) and value.dim() != weight.dim():
        return (
            f"batch_norm normalizes axis 1 of a tensor of rank {value.dim()}; the output features of {layer.name} are "
            f"there only in a batch, of rank {weight.dim()}"
        )
    return None


def _tensors(layer: Node, norm: Node) -> list[Any]:
    """Return what a pair is folded of: the layer's weight and bias, the norm's weight, bias, mean and variance."""
    return [argument(layer, "weight"), argument(layer, "bias"), *(argument(norm, name) for name in _STATISTICS)]


def _key(constants: Constants, layer: Node, norm: Node) -> _Key:
    nodes = _tensors(layer, norm)
    tensors = tuple(None if node is None else id(constants.read(node)) for node in nodes)
    assert isinstance(layer.target, torch._ops.OpOverload)
    return _Key(layer.target, tensors, argument(norm, "eps"), _groups(layer))


def _groups(layer: Node) -> int:
    return 1 if layer.target is _ATEN.linear.default else int(argument(layer, "groups"))


def _fold(constants: Constants, layer: Node, norm: Node) -> tuple[nn.Parameter, nn.Parameter]:
    """Compute W·γ/σ and (b − μ)·γ/σ + β with σ = sqrt(var + eps)."""

    def read(node: Node | None) -> torch.Tensor | None:
        return None if node is None else constants.read(node).detach().to(torch.float64)

    original = constants.read(argument(layer, "weight"))
    weight, bias = original.detach().to(torch.float64), read(argument(layer, "bias"))
    gamma, beta, mean, variance = (read(argument(norm, name)) for name in _STATISTICS)
    assert mean is not None
    assert variance is not None
    factor = scale_of_norm(gamma, variance, argument(norm, "eps"))
    shift = folded_bias(bias, factor, beta, mean)
    return _parameter(scaled_by_output(layer, weight, factor), original), _parameter(shift, original)


def normal_of(constants: Constants, norm: Node) -> Normal | None:
    """Return what a batch norm makes of its channels; None where it computes its statistics from each run's data."""
    gamma, beta, mean = (argument(norm, name) for name in ("weight", "bias", "running_mean"))
    known = [node for node in (gamma, beta, mean) if node is not None]
    if mean is None or any(node.op != "get_attr" for node in known) or argument(norm, "training"):
        return None
    like = constants.read(mean).detach().double()
    return Normal(
        torch.zeros_like(like) if beta is None else constants.read(beta).detach().double(),
        torch.ones_like(like) if gamma is None else constants.read(gamma).detach().double().abs(),
    )


def scale_of_norm(gamma: torch.Tensor | None, variance: torch.Tensor, eps: float) -> torch.Tensor:
    """Return γ/σ with σ = sqrt(var + eps), one number a channel."""
    factor = torch.rsqrt(variance + eps)
    return factor if gamma is None else factor * gamma


def folded_bias(
    bias: torch.Tensor | None, factor: torch.Tensor, beta: torch.Tensor | None, mean: torch.Tensor
) -> torch.Tensor:
    """Return the layer's bias with the norm in it: (b − μ)·factor + β."""
    shift = (-mean if bias is None else bias - mean) * factor
    return shift if beta is None else shift + beta


def scaled_by_output(layer: Node, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return a layer's weight times a factor for each of its output channels."""
    assert isinstance(layer.target, torch._ops.OpOverload)
    if FOLDABLE[layer.target] == 0:
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
    groups = _groups(layer)  # [in, out / groups, ...]: input channel i belongs to group i // (in / groups)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (grouped * factor.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)


def output_scale_shape(layer: Node, weight_rank: int) -> list[int]:
    """Return the shape in which one number for each output channel broadcasts over a layer's result."""
    return [-1] if layer.target is _ATEN.linear.default else [-1] + [1] * (weight_rank - 2)


def _parameter(value: torch.Tensor, like: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=like.requires_grad)
