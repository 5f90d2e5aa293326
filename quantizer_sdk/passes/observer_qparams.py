"""From one observer to the qparams of the ops that replace it: chosen now and stored, or computed at run time."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants
from quantizer_sdk.dtypes import code_range, storage_dtype
from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.granularity import Granularity, PerAxis, PerRow, PerTensor, PerToken, grid_of
from quantizer_sdk.provenance import describe, value_of
from quantizer_sdk.qdq import Layout, QParams, emit_choose_qparams
from quantizer_sdk.qparams import default_eps
from quantizer_sdk.spec import PER_CHANNEL_SCHEMES, SYMMETRIC_SCHEMES

__all__ = ["QParamsMaker", "granularity_of_observer"]

Chosen = tuple[torch.Tensor, torch.Tensor]
"""Scale and zero point."""


def granularity_of_observer(observer: Any) -> Granularity:
    """Return how many elements share a scale; observers of other libraries say it by their qscheme."""
    known = getattr(observer, "granularity", None)
    if isinstance(known, Granularity):
        return known
    if getattr(observer, "qscheme", None) in PER_CHANNEL_SCHEMES:
        return PerAxis(int(observer.ch_axis))
    return PerTensor()


class QParamsMaker:
    """Makes qparams for observers of one model; those of an observer called at several points are stored once.

    Args:
        model: The model; nodes come at its graph's insertion point.
        constants: Its tensors.
        tensor_qparams: Whether static per-tensor qparams are buffers too, instead of numbers in the graph.
    """

    def __init__(self, model: GraphModule, constants: Constants, *, tensor_qparams: bool) -> None:
        self._model = model
        self._constants = constants
        self._tensor_qparams = tensor_qparams
        self._stored: dict[str, tuple[Node, Node]] = {}

    def static(self, name: str, observer: Any, chosen: Chosen, tensor: Node) -> QParams:
        """Return qparams that were chosen from what the observer saw.

        Args:
            name: The observer's path.
            observer: The observer.
            chosen: Its scale and zero point.
            tensor: What it watches.

        Raises:
            UnsupportedError: Its scales are one a token, which only run-time qparams can be.
        """
        layout, ch_axis, block = _layout(observer, tensor)
        scale, zero_point = chosen
        codes = _codes(observer)
        if layout is Layout.PER_TENSOR and not self._tensor_qparams:
            return QParams(layout=layout, scale=float(scale), zero_point=int(zero_point), **codes)
        if layout is Layout.PER_CHANNEL:
            scale, zero_point = scale.reshape(-1), zero_point.reshape(-1)
        if name not in self._stored:
            near = str(tensor.target) if tensor.op == "get_attr" else name
            self._stored[name] = (
                self._constants.add(f"{near}_scale", scale.detach().to(torch.float32), like=tensor),
                self._constants.add(f"{near}_zero_point", zero_point.detach().to(torch.int64), like=tensor),
            )
        if layout is Layout.PER_TENSOR:
            layout = Layout.PER_TENSOR_NODES
        scale_node, zero_node = self._stored[name]
        return QParams(
            layout=layout, scale=scale_node, zero_point=zero_node, ch_axis=ch_axis, block_size=block, **codes
        )

    def dynamic(self, observer: Any, tensor: Node) -> QParams:
        """Return qparams that each run computes from its own data."""
        granularity = granularity_of_observer(observer)
        block: tuple[int, ...] = ()
        layout = Layout.PER_TENSOR_NODES
        if granularity in (PerToken(), PerRow(-1)):
            layout = Layout.PER_TOKEN
        elif not isinstance(granularity, PerTensor):
            layout, block = Layout.PER_BLOCK, granularity.pattern(_rank(observer, tensor))
        symmetric = getattr(observer, "qscheme", None) in SYMMETRIC_SCHEMES
        codes = _codes(observer)
        if layout is Layout.PER_TOKEN and symmetric:
            codes["quant_min"] = -codes["quant_max"]  # what choose_qparams_per_token divides by
        eps = getattr(observer, "eps", None)
        scale, zero_point = emit_choose_qparams(
            self._model.graph,
            tensor,
            layout,
            symmetric=symmetric,
            eps=default_eps() if eps is None else float(eps),
            block_size=block,
            **codes,
        )
        return QParams(layout=layout, scale=scale, zero_point=zero_point, block_size=block, **codes)


def _codes(observer: Any) -> dict[str, Any]:
    low, high = code_range(observer.dtype, observer.quant_min, observer.quant_max)
    return {"quant_min": low, "quant_max": high, "dtype": storage_dtype(observer.dtype)}


def _layout(observer: Any, tensor: Node) -> tuple[Layout, int | None, tuple[int, ...]]:
    """Return the layout, the channel axis and the block that an observer's granularity comes to."""
    granularity = granularity_of_observer(observer)
    if isinstance(granularity, PerTensor):
        return Layout.PER_TENSOR, None, ()
    if isinstance(granularity, PerAxis) and granularity.axis >= 0:
        return Layout.PER_CHANNEL, granularity.axis, ()
    if isinstance(granularity, PerToken):
        message = f"{describe(tensor)}: {granularity} needs is_dynamic=True, for each run brings its own tokens"
        raise UnsupportedError(message)
    shape = _shape(observer, tensor)
    block = granularity.block_of(shape)
    if isinstance(granularity, PerAxis):
        return Layout.PER_CHANNEL, granularity.axis % len(shape), ()
    grid = grid_of(block, shape)
    for axis in (0, 1) if len(shape) == 2 else ():
        if block[axis] == 1 and grid[1 - axis] == 1:
            return Layout.PER_CHANNEL, axis, ()
    if len(shape) == 2 and block[0] == 1 and block[1] > 1:
        return Layout.PER_GROUP, None, block
    return Layout.PER_BLOCK, None, block


def _rank(observer: Any, tensor: Node) -> int:
    value = value_of(tensor)
    return value.dim() if isinstance(value, torch.Tensor) else len(_shape(observer, tensor))


def _shape(observer: Any, tensor: Node) -> tuple[int, ...]:
    """Return the shape of what an observer watches: the graph's, or where that is open, its last tensor's."""
    value = value_of(tensor)
    if isinstance(value, torch.Tensor) and all(isinstance(size, int) for size in value.shape):
        return tuple(value.shape)
    seen = getattr(observer, "shape", None)
    if seen is None:
        message = f"{describe(tensor)}: its shape is not known, and {granularity_of_observer(observer)} needs it"
        raise UnsupportedError(message)
    return tuple(seen)
