"""What each quantize costs by itself, beside a plain min-max quantizer of 8 bits on the same tensor.

Noise at the results alone hides what is lost before: where a large term is added to a small one, the small one's own
codes hardly show. So each tensor is rounded for itself, weights channel by channel where they have a scale for each.

The plain quantizer's noise is the expected one, step² / 12 for every number but 0, which is exact: so it is nobody's
luck.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from quantizer_sdk.conformance.bench import Bench
from quantizer_sdk.conformance.corpus import CLAMPS, MOVES
from quantizer_sdk.conformance.kernels import Kernels, QParams, attribute, is_dequantize, is_quantize
from quantizer_sdk.conformance.scheme import Scheme

__all__ = ["TensorNoise", "tensor_noise"]

aten = torch.ops.aten
_SQUARE_SPREAD = 0.8
"""Variance of the square of a number uniform in ±1/2 step, over the square of its mean: (1/80 - 1/144) · 144."""

_KEEP_RANGE = MOVES.union(CLAMPS) | {
    aten.mean.dim,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool2d.default,
}
"""Ops whose result lies within the range of their operands: on the same grid as these it loses nothing."""

_BOUNDED: dict[Any, tuple[float, float]] = {
    aten.sigmoid.default: (0.0, 1.0),
    aten.hardsigmoid.default: (0.0, 1.0),
    aten.softmax.int: (0.0, 1.0),
    aten.tanh.default: (-1.0, 1.0),
}
"""Functions whose whole range is known beforehand: a table has codes for all of it, whatever the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorNoise:
    """The noise of one tensor, or of several that share their qparams, or of one channel of a weight.

    Attributes:
        where: The quantizes, or the weight's dequantize and channel.
        values: How many numbers were rounded.
        noise: The sum of their squared errors.
        plain: What a plain quantizer's sum is expected to be.
    """

    where: str
    values: int
    noise: float
    plain: float

    @property
    def deficit(self) -> float:
        """By how many dB it exceeds the plain quantizer's."""
        return 10 * math.log10(self.noise / self.plain) if self.noise and self.plain else -math.inf

    @property
    def slack(self) -> float:
        """How many dB four standard deviations of the noise of so few numbers are."""
        return 10 * math.log10(1 + 4 * math.sqrt(_SQUARE_SPREAD / self.values))


def tensor_noise(bench: Bench) -> Iterator[TensorNoise]:
    """Yield the noise of each group of activations and of each weight; of those that are 0 throughout nothing."""
    yield from _activations(bench)
    yield from _weights(bench)


class _Unrounded(Interpreter):
    """Runs a converted graph on unrounded activations, and keeps what reaches each quantize."""

    def __init__(self, model: GraphModule) -> None:
        super().__init__(model)
        self.reached: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        source = n.args[0] if n.args else None
        if is_quantize(n) and isinstance(source, Node):
            self.reached[n] = self.env[source].clone()
            return self.reached[n]
        if is_dequantize(n) and isinstance(source, Node) and is_quantize(source):
            return self.env[source].clone()  # which ops may change in place, as they may a dequantized tensor
        return super().run_node(n)


def _activations(bench: Bench) -> Iterator[TensorNoise]:
    model = bench.converted
    reached: dict[Node, list[Tensor]] = {}
    for batch in bench.batches:
        interpreter = _Unrounded(model)
        interpreter.garbage_collect_values = False
        with torch.no_grad():
            interpreter.run(*[tensor.clone() for tensor in batch])
        for node, value in interpreter.reached.items():
            reached.setdefault(node, []).append(value.detach().flatten())
    for group in _groups(model, bench.kernels, list(reached)):
        values = {node: torch.cat(reached[node]).double() for node in group}
        bounds = [_BOUNDED[node.args[0].target] for node in group if node.args[0].target in _BOUNDED]  # type: ignore[union-attr]
        low = min(0.0, *(float(value.min()) for value in values.values()), *(end[0] for end in bounds))
        high = max(0.0, *(float(value.max()) for value in values.values()), *(end[1] for end in bounds))
        noise = sum(float((_rounded(node, value) - value).square().sum()) for node, value in values.items())
        count = sum(int((value != 0).sum()) for value in values.values())
        if count:
            plain = ((high - low) / 255) ** 2 / 12 * count
            yield TensorNoise(where=", ".join(node.name for node in group), values=count, noise=noise, plain=plain)


def _rounded(quantize: Node, value: Tensor) -> Tensor:
    """Return what a value becomes, in float64."""
    ops, qparams = torch.ops.quantized_decomposed, quantize.args[1:]
    codes = ops.quantize_per_tensor.default(value.float(), *qparams)
    real: Tensor = ops.dequantize_per_tensor.default(codes, *qparams)
    return real.double()


def _groups(model: GraphModule, kernels: Kernels, quantizes: list[Node]) -> list[list[Node]]:
    """Return the quantizes, those together whose tensors one kernel moves or narrows between equal qparams."""
    leader = {node: node for node in quantizes}

    def find(node: Node) -> Node:
        while leader[node] is not node:
            node = leader[node]
        return node

    for kernel in kernels.found:
        if not set(kernel.targets) <= _KEEP_RANGE or kernel.output not in leader:
            continue
        for source in kernel.sources:
            origin = source.args[0]
            alike = QParams.of(model, source) == QParams.of(model, kernel.output)
            if isinstance(origin, Node) and origin in leader and alike:
                leader[find(origin)] = find(kernel.output)
    groups: dict[Node, list[Node]] = {}
    for node in quantizes:
        groups.setdefault(find(node), []).append(node)
    return list(groups.values())


def _weights(bench: Bench) -> Iterator[TensorNoise]:
    model = bench.converted
    most = 2 ** (Scheme.named(bench.scenario.scheme).weight_bits - 1) - 1
    parameters = [parameter.detach().double() for parameter in bench.module.parameters()]
    for node in model.graph.nodes:
        qparams = QParams.of(model, node) if is_dequantize(node) else None
        stored = node.args[0].op == "get_attr" if qparams is not None else False
        if qparams is None or not stored or qparams.dtype is torch.int32:
            continue
        codes = attribute(model, node.args[0])
        rounded = _dequantized(codes, qparams)
        alike = [parameter for parameter in parameters if parameter.shape == rounded.shape]
        if not alike:
            continue
        value = min(alike, key=lambda parameter: float((parameter - rounded).square().sum()))
        axis = qparams.axis
        lanes = [(value, rounded)] if axis is None else zip(value.unbind(axis), rounded.unbind(axis), strict=True)
        for place, (lane, codes_of_lane) in enumerate(lanes):
            count = int((lane != 0).sum())
            if count:
                yield TensorNoise(
                    where=node.name if axis is None else f"{node.name}, channel {place}",
                    values=count,
                    noise=float((codes_of_lane - lane).square().sum()),
                    plain=(float(lane.abs().max()) / most) ** 2 / 12 * count,
                )


def _dequantized(codes: Tensor, qparams: QParams) -> Tensor:
    shape = [1] * codes.dim()
    if qparams.axis is not None:
        shape[qparams.axis] = -1
    scales = torch.tensor(qparams.scales, dtype=torch.float64).reshape(shape)
    zeros = torch.tensor(qparams.zero_points, dtype=torch.float64).reshape(shape)
    return (codes.double() - zeros) * scales
