"""Kinds of data: what parameters, calibration data, qparams and integer inputs are like in a scenario.

- generic: normal data, qparams as the quantizer's observers choose them; codes over the whole range and, every other
  time, those of such data.
- many: the same, with ten times as many codes. A multiplier that is off by a part ε of itself moves results of some 40
  codes, as they are on average, across a tie once in 1 / (40 ε): of 20,000 results this finds an ε of 2^-16.
- zp_odd, zp_even: every scale a power of two, and biases multiples of one, which a kernel may add as they are, so that
  results often lie exactly between two codes; an odd zero point tells rounding before it is added from rounding after.
- zp_inside: the same, but a range without negative numbers has its zero point inside too, as where it shares its
  qparams with another tensor: then a relu is not merely the lower end of the range, and the kernel must clamp.
- drifting: generic, but the first batch of calibration data reaches twice as far up as the second, and the second twice
  as far down as the first: only who sees both knows the range.
- ends: weights at both ends of their range and activations likewise: the largest accumulators there are.
- unequal: each output channel on a scale of its own, over three decades.
- extreme_up, extreme_down: the output's scale so small that the requantization ratio is above 1, or so large that the
  result has few codes.
- min_max: every activation's range is all that was seen, however its observer would choose: the plain quantizer.
- nonfinite: the float inputs hold infinities and NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from quantizer_sdk.conformance.kernels import code_range_of

__all__ = ["activation_data", "codes_for", "impose", "magnitude_of"]

_SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)


def magnitude_of(data: str) -> Callable[[int, Tensor], Tensor] | None:
    """Return what a kind of data makes of each parameter, given its index and normal values; None: nothing."""
    if data == "ends":
        return lambda _place, value: torch.sign(value) * 0.5 if value.dim() > 1 else value
    if data == "extreme_up":
        return lambda _place, value: value if value.dim() > 1 else value * 0.001
    if data == "unequal":
        return _unequal
    if data.startswith("zp_"):
        return lambda _place, value: value if value.dim() > 1 else torch.round(value * 256) / 256
    if data == "rows_extreme":
        return lambda _place, value: value if value.dim() > 1 else torch.zeros_like(value)
    return None


def _unequal(_place: int, value: Tensor) -> Tensor:
    if value.dim() < 2:
        return value * 0.01
    scale = 10.0 ** -(torch.arange(value.shape[0]) % 7 / 2)
    return value * scale.reshape(-1, *(1,) * (value.dim() - 1))


def activation_data(shape: tuple[int, ...], place: int, data: str, seed: int, batch: int = 0) -> Tensor:
    """Return one calibration tensor of an input, float32: unequal magnitudes for different inputs.

    Args:
        shape: The input's shape.
        place: Which input.
        data: The kind of data.
        seed: Of the values.
        batch: Which batch of a calibration it belongs to.
    """
    generator = torch.Generator().manual_seed(1_000_003 * seed + place)
    value = torch.randn(shape, generator=generator) * 2 * 0.25 ** min(place, 2)
    if data == "ends":
        return torch.sign(value) * 2
    if data == "drifting":
        return torch.where((value > 0) == (batch % 2 == 0), 2 * value, value)
    return value


def codes_for(quantize: Node, shape: tuple[int, ...], place: int, data: str, seed: int) -> Tensor:
    """Return integer inputs for one quantize of an input.

    Args:
        quantize: A static per-tensor quantize node.
        shape: The input's shape.
        place: Which input.
        data: The kind of data.
        seed: Of the codes.

    Returns:
        Codes of the node's dtype: near the zero point for `extreme_up`, at the ends for `ends`. Else for an even seed
        any codes of the range, both ends and the zero point among them where there is room; for an odd one the codes
        of data like those of calibration, so that results lie within their own ranges too, as means of many uniform
        codes do not.
    """
    low, high, dtype = code_range_of(quantize)
    scale, zero_point = quantize.args[1:3]
    assert isinstance(scale, float)
    assert isinstance(zero_point, int)
    generator = torch.Generator().manual_seed(10 * seed + place)
    if data == "ends":
        return torch.where(torch.rand(shape, generator=generator) < 0.5, low, high).to(dtype)
    if data == "extreme_up":
        steps = torch.randint(-2, 3, shape, generator=generator)
        sparse = torch.rand(shape, generator=generator) < 0.2  # so that sums of them, amplified, stay within the range
        return (steps * sparse + zero_point).clamp(low, high).to(dtype)
    if seed % 2:
        return (torch.round(activation_data(shape, place, data, seed) / scale) + zero_point).clamp(low, high).to(dtype)
    codes = torch.randint(low, high + 1, shape, generator=generator)
    ends = torch.tensor([low, high, zero_point])
    if codes.numel() > len(ends):
        codes.view(-1)[: len(ends)] = ends
    return codes.to(dtype)


def impose(prepared: GraphModule, data: str) -> None:
    """Give the observers of a calibrated model the qparams that a kind of data asks for.

    Ranges still hold what they held. Observers with fixed or derived qparams keep them, so what must follow from others
    follows.
    """
    if data in {"zp_odd", "zp_even", "zp_inside"}:
        for observer, weight in _free_observers(prepared):
            _fix(observer, *_dyadic(observer, weight, 4 if data == "zp_even" else 5, inside=data == "zp_inside"))
    elif data == "min_max":
        for observer, weight in _free_observers(prepared):
            if not weight:
                _fix(observer, *_whole_range(observer))
    elif data in {"extreme_up", "extreme_down"}:
        activations: list[Any] = [observer for observer, weight in _free_observers(prepared) if not weight]
        if len(activations) > 1:
            scale, zero_point = activations[-1].calculate_qparams()
            extreme = _smallest_scale(prepared, scale) if data == "extreme_up" else scale * 2.0**7
            _fix(activations[-1], extreme, zero_point)


def _free_observers(prepared: GraphModule) -> list[tuple[nn.Module, bool]]:
    """Return the observers that chose their qparams from data, in graph order, and whether each watches a parameter."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    found: dict[nn.Module, bool] = {}
    for node in prepared.graph.find_nodes(op="call_module", sort=True):
        module = modules.get(str(node.target))
        free = hasattr(module, "min_val") and getattr(module, "qscheme", None) is not None
        if module is not None and free and callable(getattr(module, "calculate_qparams", None)):
            found.setdefault(module, node.all_input_nodes[0].op == "get_attr")
    return list(found.items())


def _smallest_scale(prepared: GraphModule, scale: Tensor) -> Tensor:
    """Return the scale of a result by which a gemm requantizes its largest channel by 2, and other ops by up to 128."""
    scales: dict[bool, list[Tensor]] = {False: [], True: []}
    for observer, weight in _free_observers(prepared):
        scales[weight].append(observer.calculate_qparams()[0].max())  # type: ignore[operator]
    largest = torch.stack(scales[False][:-1]).max()
    if scales[True]:
        return (largest * torch.stack(scales[True]).max() / 2).to(scale.dtype).reshape(scale.shape)
    return torch.maximum(scale, largest) * 2.0**-7


def _whole_range(observer: Any) -> tuple[Tensor, Tensor]:
    """Return the affine qparams that cover all that an observer saw."""
    scale, zero_point = observer.calculate_qparams()
    if observer.qscheme in _SYMMETRIC:
        return scale, zero_point
    low, high = observer.min_val.clamp(max=0.0), observer.max_val.clamp(min=0.0)
    steps = int(observer.quant_max) - int(observer.quant_min)
    whole = ((high - low) / steps).clamp(min=2.0**-23).reshape(scale.shape)
    zero = (int(observer.quant_min) - torch.round(low.reshape(scale.shape) / whole)).to(zero_point.dtype)
    return whole.to(scale.dtype), zero.clamp(int(observer.quant_min), int(observer.quant_max))


def _fix(observer: Any, scale: Tensor, zero_point: Tensor) -> None:
    """Let an observer choose these qparams whatever it saw."""
    chosen = (scale, zero_point)
    observer.calculate_qparams = lambda: chosen


def _dyadic(observer: Any, weight: bool, offset: int, inside: bool) -> tuple[Tensor, Tensor]:
    """Return power-of-two scales that hold the observer's range, with a zero point `offset` beside the middle.

    A range without negative numbers keeps its zero point at the lowest code, if not `inside`.
    """
    scale, zero_point = observer.calculate_qparams()
    if weight or observer.qscheme in _SYMMETRIC:
        return 2.0 ** torch.ceil(torch.log2(scale)), zero_point
    low, high = int(observer.quant_min), int(observer.quant_max)
    least, most = (float(scale) * (end - int(zero_point)) for end in (low, high))
    zero = low if least > -1e-6 * most and not inside else (low + high + 1) // 2 + offset
    reach = max(most / (high - zero), -least / (zero - low) if zero > low else 0.0, 2.0**-20)
    # The range of qparams exceeds that of the data by up to half a step at either end.
    power = 2.0 ** math.ceil(math.log2(reach * (1 - 1 / (high - low))))
    return torch.full_like(scale, power), torch.full_like(zero_point, zero)
