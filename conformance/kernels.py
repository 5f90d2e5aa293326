"""A converted graph read as kernels: what lies between dequantize and quantize, and what lies outside of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

__all__ = ["Kernel", "Kernels", "QParams", "attribute", "code_range_of", "is_dequantize", "is_quantize"]

_NAMESPACE = "quantized_decomposed"


def is_quantize(node: object) -> bool:
    """Whether a node is a static per-tensor quantize with its qparams written in."""
    return isinstance(node, Node) and str(node.target) == f"{_NAMESPACE}.quantize_per_tensor.default"


def is_dequantize(node: object) -> bool:
    """Whether a node is a dequantize of any kind."""
    return isinstance(node, Node) and str(node.target).startswith(f"{_NAMESPACE}.dequantize_per_")


def code_range_of(quantize: Node) -> tuple[int, int, torch.dtype]:
    """Return the smallest and the largest code of a static per-tensor quantize, and their type."""
    low, high, dtype = quantize.args[3:6]
    assert isinstance(low, int)
    assert isinstance(high, int)
    assert isinstance(dtype, torch.dtype)
    return low, high, dtype


def attribute(model: GraphModule, node: Node) -> Any:
    """Return the tensor of a get_attr node."""
    value: Any = model
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class QParams:
    """The qparams written into a quantize or dequantize.

    Attributes:
        scales: One, or one for each channel.
        zero_points: Likewise.
        quant_min: The smallest code.
        quant_max: The largest code.
        dtype: The codes' type.
        axis: The channels' axis; None per tensor.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    quant_min: int
    quant_max: int
    dtype: torch.dtype
    axis: int | None

    @classmethod
    def of(cls, model: GraphModule, node: Node) -> QParams | None:
        """Read a node's; None for run-time qparams and blocks."""
        name = str(node.target)
        if name.endswith("quantize_per_tensor.default"):
            _, scale, zero_point, low, high, dtype = node.args[:6]
            return cls(**_common(low, high, dtype), scales=(scale,), zero_points=(zero_point,), axis=None)  # type: ignore[arg-type]
        if not name.endswith("quantize_per_channel.default"):
            return None
        _, scale, zero_point, axis, low, high, dtype = node.args[:7]
        scales, zeros = (attribute(model, part) for part in (scale, zero_point) if isinstance(part, Node))
        return cls(
            **_common(low, high, dtype),
            scales=tuple(scales.tolist()),
            zero_points=tuple(int(zero) for zero in zeros.tolist()),
            axis=axis,  # type: ignore[arg-type]
        )


def _common(low: Any, high: Any, dtype: Any) -> dict[str, Any]:
    return {"quant_min": low, "quant_max": high, "dtype": dtype}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What one quantize rounds.

    Attributes:
        ops: The ops before it, in graph order; none where a tensor is only requantized.
        sources: The dequantizes that they read.
        parameters: The float constants that they read.
        inputs: The float inputs that they read, which nothing quantizes.
        output: The quantize.
    """

    ops: tuple[Node, ...]
    sources: tuple[Node, ...]
    parameters: tuple[Node, ...]
    inputs: tuple[Node, ...]
    output: Node

    @property
    def targets(self) -> tuple[Any, ...]:
        """The overloads of its ops."""
        return tuple(op.target for op in self.ops)

    def __str__(self) -> str:
        names = " + ".join(op.name for op in self.ops) or "nothing"
        return f"{names} -> {self.output.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """All kernels of a graph.

    Attributes:
        found: In graph order.
        loose: Ops whose result reaches something else than a quantize: they compute in float.
    """

    found: tuple[Kernel, ...]
    loose: tuple[Node, ...]

    @classmethod
    def of(cls, model: GraphModule) -> Kernels:
        """Read a converted graph; its cost is that of the graph and of the ops that several quantizes share."""
        found = []
        inside: set[Node] = set()
        order = {node: place for place, node in enumerate(model.graph.nodes)}
        for node in model.graph.nodes:
            if not is_quantize(node) or node.args[0].op in {"placeholder", "get_attr"}:
                continue
            ops, ends = _behind(node.args[0])
            inside.update(ops)
            sources = sorted((end for end in ends if is_dequantize(end)), key=order.__getitem__)
            floats = sorted((end for end in ends if not is_dequantize(end)), key=order.__getitem__)
            found.append(
                Kernel(
                    ops=tuple(sorted(ops, key=order.__getitem__)),
                    sources=tuple(sources),
                    parameters=tuple(end for end in floats if end.op == "get_attr"),
                    inputs=tuple(end for end in floats if end.op == "placeholder"),
                    output=node,
                )
            )
        loose = tuple(
            node for node in model.graph.nodes if node.op == "call_function" and _computes(node) and node not in inside
        )
        return cls(found=tuple(found), loose=loose)


def _computes(node: Node) -> bool:
    name = str(node.target)
    return not (name.startswith(_NAMESPACE) or "getitem" in name or "sym_size" in name)


def _behind(start: Any) -> tuple[set[Node], set[Node]]:
    """Return the ops that a value depends on, up to the dequantizes, constants and inputs, and these."""
    ops: set[Node] = set()
    ends: set[Node] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node in ops or node in ends:
            continue
        if node.op == "call_function" and _computes(node):
            ops.add(node)
            waiting.extend(node.all_input_nodes)
        elif is_dequantize(node) or node.op in {"get_attr", "placeholder"}:
            ends.add(node)
        elif node.op == "call_function" and "getitem" in str(node.target):
            waiting.extend(node.all_input_nodes)
    return ops, ends
