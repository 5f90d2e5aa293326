"""The quantized points of a graph: what observers in a prepared one, or q/dq ops in a converted one, say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.dtypes import CODE_RANGES, code_range, is_cast
from quantizer_sdk.granularity import PerAxis, PerBlock, PerGroup, PerTensor
from quantizer_sdk.observers.create import is_calibrated, is_observer, is_observer_call
from quantizer_sdk.observers.derived import is_derived
from quantizer_sdk.observers.seen import SEEN_KEY, Seen, seen_by
from quantizer_sdk.passes.observer_qparams import granularity_of_observer
from quantizer_sdk.qdq import CAST_OP, Layout, is_dequantize, is_narrowing_cast, is_quantize
from quantizer_sdk.report.held_tensors import HeldTensors

__all__ = ["Point", "Points"]

_LAYOUTS: dict[Any, Layout] = {target: layout for layout in Layout for target in layout.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A quantized tensor.

    Attributes:
        tensor: The node whose result is quantized, which may be another point; the stored codes, of a constant.
        dtype: Type of the codes, or the float type of a cast.
        quant_min: Smallest code; None for a cast.
        quant_max: Largest code.
        granularity: In words.
        ch_axis: The channel axis, per channel.
        scale: One number a scale; None where they are not known now.
        zero_point: The same.
        dynamic: Whether each run computes them.
        seen: What the observer knows.
        derived: Whether the scale follows from those of other points.
        observed: Whether an observer is still there, which may see more.
    """

    tensor: Node
    dtype: torch.dtype
    quant_min: int | None = None
    quant_max: int | None = None
    granularity: str = "per tensor"
    ch_axis: int | None = None
    scale: torch.Tensor | None = None
    zero_point: torch.Tensor | None = None
    dynamic: bool = False
    seen: Seen | None = None
    derived: bool = False
    observed: bool = False


class Points:
    """Reads points; an observer that several points share is asked once.

    Args:
        held: The model's constant tensors.
    """

    def __init__(self, held: HeldTensors) -> None:
        self._held = held
        self._known: dict[nn.Module, dict[str, Any]] = {}
        self._modules: dict[str, nn.Module] = {}

    def enter(self, graph: GraphModule) -> None:
        """Read the points of this graph from now on."""
        self._modules = {
            str(node.target): module
            for node in graph.graph.nodes
            if node.op == "call_module" and is_observer(module := graph.get_submodule(str(node.target)))
        }

    def read(self, node: Node) -> Point | None:
        """Return the point that an operand is read at: an observer's call, a dequantize or the second of two casts."""
        if is_observer_call(node, self._modules):
            return self._of_observer(node)
        if is_dequantize(node):
            return self._of_op(node)
        if node.target is CAST_OP and isinstance(node.args[0], Node) and is_narrowing_cast(node.args[0]):
            narrow = node.args[0]
            return Point(tensor=narrow.all_input_nodes[0], dtype=narrow.args[1], granularity="cast")  # type: ignore[arg-type]
        return None

    def written(self, node: Node) -> Point | None:
        """Return the first point at which a node's result is quantized."""
        for user in node.users:
            if is_observer_call(user, self._modules):
                return self._of_observer(user)
            if is_quantize(user):
                return self._of_op(user)
        return None

    def origin(self, node: Node) -> Node:
        """Return the node behind all points at which a tensor is quantized one after the other."""
        while (point := self.read(node)) is not None:
            node = point.tensor
        return node

    def _of_observer(self, call: Node) -> Point | None:
        observer: Any = self._modules[str(call.target)]
        if observer.dtype not in CODE_RANGES and not is_cast(observer.dtype):
            return None  # it stays float
        if observer not in self._known:
            self._known[observer] = _fields_of(observer)
        return Point(tensor=call.all_input_nodes[0], **self._known[observer])

    def _of_op(self, node: Node) -> Point:
        layout = _LAYOUTS.get(node.target, Layout.PER_TENSOR_NODES)  # that of tensor2, which alone is not listed
        rest = list(node.args[1:])
        block = rest.pop(0) if layout is Layout.PER_BLOCK else ()
        scale, zero_point = rest.pop(0), rest.pop(0)
        axis = rest.pop(0) if layout is Layout.PER_CHANNEL else None
        low, high, dtype, *group = rest
        words = {
            Layout.PER_CHANNEL: f"per channel {axis}",
            Layout.PER_GROUP: f"per group of {group[0] if group else '?'}",
            Layout.PER_TOKEN: "per token",
            Layout.PER_BLOCK: f"per block of {'x'.join(map(str, block))}",  # type: ignore[arg-type]
        }
        source = node.args[0]
        assert isinstance(source, Node)
        if is_dequantize(node) and is_quantize(source):
            source = source.all_input_nodes[0]
        static = [self._number(value) for value in (scale, zero_point)]
        return Point(
            tensor=source,
            dtype=dtype,  # type: ignore[arg-type]
            quant_min=_integer(low),
            quant_max=_integer(high),
            granularity=words.get(layout, "per tensor"),
            ch_axis=axis,  # type: ignore[arg-type]
            scale=static[0],
            zero_point=static[1],
            dynamic=isinstance(scale, Node) and scale.op == "call_function",
            seen=node.meta.get(SEEN_KEY),
        )

    def _number(self, value: Any) -> torch.Tensor | None:
        if isinstance(value, (int, float)):
            return torch.tensor([value], dtype=torch.float64)
        tensor = self._held.of(value)
        return None if tensor is None else tensor.detach().reshape(-1)


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _fields_of(observer: Any) -> dict[str, Any]:
    """Return what an observer, or a fake quantizer, says of its points."""
    dtype = observer.dtype
    granularity = granularity_of_observer(observer)
    derived = is_derived(observer)
    fields: dict[str, Any] = {"dtype": dtype, "derived": derived, "observed": True}
    fields["granularity"] = _words(granularity)
    if is_cast(dtype):
        return {**fields, "granularity": "cast"}
    low, high = code_range(dtype, observer.quant_min, observer.quant_max)
    fields |= {"quant_min": low, "quant_max": high, "dynamic": bool(getattr(observer, "is_dynamic", False))}
    fields["ch_axis"] = granularity.axis if isinstance(granularity, PerAxis) else None
    scale: torch.Tensor | None = None
    zero_point: torch.Tensor | None = None
    if not fields["dynamic"] and is_calibrated(observer):
        try:
            scale, zero_point = observer.calculate_qparams()
        except Exception:  # noqa: BLE001  # another library's, which has seen nothing or refuses what it saw
            scale = zero_point = None
    if scale is not None and zero_point is not None and bool(torch.isfinite(scale).all()):
        fields |= {"scale": scale.detach().reshape(-1), "zero_point": zero_point.detach().reshape(-1)}
    else:
        scale = zero_point = None
    return {**fields, "seen": seen_by(observer, scale, zero_point)}


def _words(granularity: Any) -> str:
    if isinstance(granularity, PerTensor):
        return "per tensor"
    if isinstance(granularity, PerAxis):
        return f"per channel {granularity.axis}"
    if isinstance(granularity, PerGroup):
        return f"per group of {granularity.group_size}"
    if isinstance(granularity, PerBlock):
        return f"per block of {'x'.join(map(str, granularity.block_size))}"
    return {"PerToken": "per token", "PerRow": "per row"}.get(type(granularity).__name__, str(granularity))
