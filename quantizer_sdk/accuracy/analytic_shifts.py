"""How far rounding a layer's weight shifts the mean of each channel, by batch norm's statistics alone.

Analytic bias correction (Nagel et al. 2019, arXiv:1906.04721, §4.2): E[W̃x] - E[Wx] = (W̃ - W)·E[x]. Places where a
kernel reads padding count as all others do.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.accuracy.channel_means import channel_means
from quantizer_sdk.accuracy.channel_weights import groups_of
from quantizer_sdk.accuracy.quantized_layers import matching_layers
from quantizer_sdk.constants import Constants
from quantizer_sdk.dtypes import CODE_RANGES, code_range
from quantizer_sdk.fake_quantize.function import fake_quantize
from quantizer_sdk.observers.create import is_observer_call
from quantizer_sdk.operands import argument
from quantizer_sdk.passes.fold_batch_norm import FOLDABLE
from quantizer_sdk.passes.observer_qparams import granularity_of_observer

__all__ = ["analytic_shifts"]


def analytic_shifts(model: GraphModule, prepared: GraphModule) -> tuple[dict[Node, torch.Tensor], list[Node]]:
    """Return what the bias of each layer lacks, and the layers of which that is not known.

    Args:
        model: The tidied float model.
        prepared: The same with observers, which need not have seen any data.

    Returns:
        float64 [channels] by the layers of the float model; and the prepared model's layers whose weight is rounded but
        whose operand's means batch norm does not tell, or that the float model has in another form.
    """
    modules = dict(prepared.named_modules())
    observers = {
        node: modules[str(weight.target)]
        for node in prepared.graph.nodes
        if node.target in FOLDABLE
        and isinstance(weight := argument(node, "weight"), Node)
        and is_observer_call(weight, modules)
        and weight.all_input_nodes[0].op == "get_attr"
    }
    layers, others = matching_layers(model, list(observers))
    means, constants = channel_means(model), Constants(model)
    shifts: dict[Node, torch.Tensor] = {}
    for node, layer in layers.items():
        mean = means.get(argument(layer, "input"))
        observer: Any = observers[node]
        if mean is None or observer.dtype not in CODE_RANGES:
            others.append(node)
            continue
        weight = constants.read(argument(layer, "weight")).detach()
        lost = weight.double() - _rounded(observer, weight).double()
        shifts[layer] = _response(layer, lost, mean)
    return shifts, others


def _rounded(observer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight as its codes say it."""
    watcher: Any = copy.deepcopy(observer)
    with torch.no_grad():
        watcher(weight)
        scale, zero_point = watcher.calculate_qparams()
        low, high = code_range(watcher.dtype, watcher.quant_min, watcher.quant_max)
        return fake_quantize(
            weight,
            scale.detach(),
            zero_point.detach(),
            quant_min=low,
            quant_max=high,
            granularity=granularity_of_observer(watcher),
            dtype=watcher.dtype,
        )


def _response(layer: Node, weight: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return what a layer with this weight and no bias makes of an operand that is `mean` everywhere; [channels]."""
    axis = FOLDABLE[layer.target]  # type: ignore[index]
    groups = groups_of(layer)
    flat = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    by_group = mean.reshape(groups, -1)
    if axis == 0:  # [out, in / groups]
        return torch.einsum("goi,gi->go", flat.reshape(groups, -1, flat.shape[1]), by_group).reshape(-1)
    # [in, out / groups]: each place of the result sums one of `stride` places of the kernel, as a mean over places
    strides = 1
    for stride in argument(layer, "stride"):
        strides *= int(stride)
    return torch.einsum("gio,gi->go", flat.reshape(groups, -1, flat.shape[1]), by_group).reshape(-1) / strides
