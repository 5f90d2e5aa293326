"""Keep derived codes, such as those of an int32 bias, from overflowing, by coarser scales of the weights beside them.

Requires a prepared, calibrated graph. Ensures: the codes of every constant with derived qparams are at most half of
what their type holds, so that the accumulator they start has room for the products too.

A channel that batch norm has scaled to almost nothing has tiny weights and a large bias: the product of the scales is
then so small that the bias exceeds int32, and kernels wrap around without a word. A coarser weight scale costs such a
channel nothing that could be seen: its output is its bias.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.fx import Node

from quantizer_sdk.constants import Constants
from quantizer_sdk.errors import InvalidAnnotationError, UnsupportedError
from quantizer_sdk.observers.derived import DerivedObserver, replace_observers
from quantizer_sdk.provenance import describe

__all__ = ["fit_bias"]


def fit_bias(
    calls: list[Node],
    modules: dict[str, nn.Module],
    chosen: dict[str, tuple[torch.Tensor, torch.Tensor]],
    constants: Constants,
    constant: set[Node],
) -> list[Node]:
    """Give weights' observers a `scale_floor` where a bias would overflow.

    Args:
        calls: The observer calls of the graph.
        modules: The model's modules by path.
        chosen: The scale and zero point of each observer, by path.
        constants: Its tensors.
        constant: The nodes whose value is the same in every run.

    Returns:
        The calls of observers whose qparams may be others now: those weights', and all that are derived. In `modules`
        other observers stand in for them.

    Raises:
        InvalidAnnotationError: A constant has another number of channels than its derived qparams.
        UnsupportedError: A bias overflows, and it is not derived from exactly one weight under an observer of ours.
    """
    paths = {modules[str(call.target)]: str(call.target) for call in calls}
    weights = {modules[str(call.target)] for call in calls if call.all_input_nodes[0] in constant}
    floors: dict[nn.Module, torch.Tensor] = {}
    for call in calls:
        observer, tensor = modules[str(call.target)], call.all_input_nodes[0]
        if not isinstance(observer, DerivedObserver) or tensor not in constant:
            continue
        scale, _ = chosen[str(call.target)]
        value = constants.compute(tensor, {}).abs().to(torch.float64)
        if observer.ch_axis is not None and scale.numel() not in {1, value.shape[observer.ch_axis]}:
            message = (
                f"{describe(tensor)} has {value.shape[observer.ch_axis]} channels, and the qparams derived for it are "
                f"those of {scale.numel()}; the weight that they derive from needs its scales along its output channels"
            )
            raise InvalidAnnotationError(message)
        largest = value.flatten() if observer.ch_axis is not None else value.max().reshape(1)
        excess = largest / (scale.to(torch.float64) * (observer.quant_max // 2))
        if not bool((excess > 1).any()):
            continue
        sources = [source for source in observer.sources if source in weights]
        if len(sources) != 1 or not hasattr(sources[0], "scale_floor"):
            message = (
                f"{describe(tensor)} holds {float(largest.max()):.3g}, which does not fit the codes that its derived "
                f"scale {float(scale.min()):.3g} gives; its qparams must derive from one weight with an observer of "
                "quantizer_sdk, whose scale can then be made coarser"
            )
            raise UnsupportedError(message)
        current, _ = chosen[paths[sources[0]]]
        floor = (current.to(torch.float64) * excess.clamp(min=1)).to(torch.float32)
        before = floors.get(sources[0])  # of another bias beside the same weight
        floors[sources[0]] = floor if before is None else torch.maximum(before, floor)
    if not floors:
        return []
    coarser: dict[nn.Module, nn.Module] = {}
    for observer, floor in floors.items():
        coarser[observer] = copy.copy(observer)
        coarser[observer].__dict__["scale_floor"] = floor
    changed = [call for call in calls if modules[str(call.target)] in coarser]
    replace_observers(modules, coarser)
    return changed + [call for call in calls if isinstance(modules[str(call.target)], DerivedObserver)]
