"""That δ holds for real float32 arithmetic, and that wrong kernels do not hide behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed
from torch.nn import functional as F  # noqa: N812

from quantizer_sdk.conformance import (
    Site,
    judge,
    run_oracle,
)

Q = torch.ops.quantized_decomposed
aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight's shape and channel axis, and the length of the bias, if any."""

    shape: tuple[int, ...]
    axis: int | None = 0
    bias: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One operator: `call` takes the dequantized inputs, then weight and bias if it has them."""

    name: str
    call: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    weight: Weight | None = None
    same: bool = False  # input and output are quantized alike
    rounds: bool = False  # rounds even on dyadic scales


X = (2, 6, 9, 8)
ROWS = (
    Row(name="conv1d", call=F.conv1d, shapes=((2, 6, 17),), weight=Weight(shape=(5, 6, 3), bias=5)),
    Row(
        name="conv1d.same",
        call=lambda x, w, b: F.conv1d(x, w, b, padding="same"),
        shapes=((2, 6, 17),),
        weight=Weight(shape=(5, 6, 4), bias=5),
    ),
    Row(
        name="conv2d",
        call=lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
        shapes=(X,),
        weight=Weight(shape=(5, 6, 3, 3), bias=5),
    ),
    Row(name="conv2d.wide", call=F.conv2d, shapes=((17, 64, 6, 6),), weight=Weight(shape=(8, 64, 3, 3), bias=8)),
    Row(name="conv2d.1x1", call=F.conv2d, shapes=((1, 48, 5, 5),), weight=Weight(shape=(8, 48, 1, 1), axis=None)),
    Row(
        name="conv2d.same",
        call=lambda x, w, b: F.conv2d(x, w, b, padding="same"),
        shapes=(X,),
        weight=Weight(shape=(4, 6, 2, 4), bias=4),
    ),
    Row(
        name="conv2d.groups",
        call=lambda x, w, b: F.conv2d(x, w, b, groups=3, dilation=2),
        shapes=(X,),
        weight=Weight(shape=(9, 2, 3, 3), bias=9),
    ),
    Row(
        name="conv2d.depthwise",
        call=lambda x, w, b: F.conv2d(x, w, b, groups=6, padding=1),
        shapes=(X,),
        weight=Weight(shape=(6, 1, 3, 3), bias=6),
    ),
    Row(
        name="conv2d.relu",
        call=lambda x, w, b: F.relu(F.conv2d(x, w, b)),
        shapes=(X,),
        weight=Weight(shape=(5, 6, 3, 3), bias=5),
    ),
    Row(
        name="conv2d.relu6",
        call=lambda x, w, b: aten.relu6(F.conv2d(x, w, b)),
        shapes=(X,),
        weight=Weight(shape=(5, 6, 3, 3), bias=5),
    ),
    Row(
        name="conv2d.hardtanh",
        call=lambda x, w, b: F.hardtanh(F.conv2d(x, w, b), -0.3, 0.7),
        shapes=(X,),
        weight=Weight(shape=(5, 6, 3, 3), bias=5),
        rounds=True,
    ),
    Row(name="conv3d", call=F.conv3d, shapes=((1, 3, 5, 6, 4),), weight=Weight(shape=(4, 3, 2, 3, 3), bias=4)),
    Row(
        name="conv3d.same",
        call=lambda x, w, b: F.conv3d(x, w, b, padding="same"),
        shapes=((1, 3, 5, 6, 4),),
        weight=Weight(shape=(4, 3, 2, 3, 3), bias=4),
    ),
    Row(
        name="conv_transpose1d",
        call=lambda x, w, b: F.conv_transpose1d(x, w, b, stride=2),
        shapes=((2, 6, 7),),
        weight=Weight(shape=(6, 4, 3), axis=1, bias=4),
    ),
    Row(
        name="conv_transpose2d",
        call=lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1, groups=2),
        shapes=(X,),
        weight=Weight(shape=(6, 4, 3, 3), axis=1, bias=8),
    ),
    Row(
        name="conv_transpose2d.input_axis",
        call=F.conv_transpose2d,
        shapes=(X,),
        weight=Weight(shape=(6, 4, 3, 3), axis=0, bias=4),
    ),
    Row(name="linear", call=F.linear, shapes=((33, 65),), weight=Weight(shape=(17, 65), bias=17)),
    Row(name="linear.3d", call=F.linear, shapes=((2, 5, 512),), weight=Weight(shape=(17, 512), axis=None)),
    Row(name="linear.k1", call=F.linear, shapes=((33, 1),), weight=Weight(shape=(17, 1), bias=17)),
    Row(
        name="addmm",
        call=lambda x, w, b: torch.addmm(b, x, w),
        shapes=((9, 40),),
        weight=Weight(shape=(40, 11), axis=1, bias=11),
    ),
    Row(name="mm", call=lambda x, w, _: torch.mm(x, w), shapes=((9, 40),), weight=Weight(shape=(40, 11), axis=None)),
    Row(name="matmul", call=torch.matmul, shapes=((3, 9, 20), (3, 20, 7))),
    Row(name="add", call=torch.add, shapes=(X, X)),
    Row(name="add.broadcast", call=torch.add, shapes=(X, (6, 1, 1))),
    Row(name="add.relu", call=lambda x, y: F.relu(x + y), shapes=(X, X)),
    Row(name="add.scalar", call=lambda x: x + 0.3, shapes=(X,), rounds=True),
    Row(name="sub", call=torch.sub, shapes=(X, X)),
    Row(name="mul", call=torch.mul, shapes=(X, X)),
    Row(name="mul.scalar", call=lambda x: x * -0.7, shapes=(X,), rounds=True),
    Row(name="mean", call=lambda x: x.mean([2, 3], keepdim=True), shapes=((8, 16, 7, 7),), rounds=True),
    Row(name="mean.one", call=lambda x: x.mean(1), shapes=((9, 300, 3),), rounds=True),
    Row(name="mean.power", call=lambda x: x.mean([-2, -1]), shapes=((8, 16, 8, 8),)),
    Row(name="adaptive_avg_pool2d", call=lambda x: F.adaptive_avg_pool2d(x, 1), shapes=((8, 16, 5, 7),), rounds=True),
    Row(name="max_pool2d", call=lambda x: F.max_pool2d(x, 3, 2, 1), shapes=(X,), same=True),
    Row(name="relu", call=F.relu, shapes=(X,)),
    Row(name="relu_", call=lambda x: aten.relu_(x * 1.0), shapes=(X,)),
    Row(name="relu6", call=aten.relu6, shapes=(X,)),
    Row(name="hardtanh", call=lambda x: F.hardtanh(x, -0.37, 0.41), shapes=(X,), rounds=True),
    Row(name="clamp", call=lambda x: x.clamp(-0.1, 0.83), shapes=(X,), rounds=True),
    Row(name="clamp_min", call=lambda x: x.clamp_min(-0.21), shapes=(X,), rounds=True),
    Row(name="cat", call=lambda x, y: torch.cat([x, y], 1), shapes=(X, X)),
    Row(name="pad", call=lambda x: F.pad(x, [1, 2, 0, 1]), shapes=(X,), same=True),
    Row(name="constant_pad_nd", call=lambda x: aten.constant_pad_nd(x, [1, 1]), shapes=(X,)),
    Row(name="view", call=lambda x: x.view(2, -1), shapes=(X,), same=True),
    Row(name="reshape", call=lambda x: x.permute(0, 2, 3, 1).reshape(2, -1), shapes=(X,)),
    Row(name="flatten", call=lambda x: torch.flatten(x, 1), shapes=(X,)),
    Row(name="transpose", call=lambda x: x.transpose(1, -1).contiguous(), shapes=(X,)),
    Row(
        name="squeeze", call=lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(0).unsqueeze(0).squeeze((0, 1)), shapes=(X,)
    ),
    Row(name="slice", call=lambda x: x[:, 1:-1, ::2].clone(), shapes=(X,)),
    Row(name="dropout", call=lambda x: F.dropout(x, 0.5, training=False), shapes=(X,)),
    Row(name="residual", call=lambda x, y: F.relu(x * y + x), shapes=(X, X)),
)

NAMES = [row.name for row in ROWS]
REGIMES = ("float32", "double", "dyadic")


class Graph(torch.nn.Module):
    """The operator of a row between dequantizes and a quantize."""

    def __init__(self, call, inputs, output, weight=None, scales=None, axis=None, bias=None):
        super().__init__()
        self.call, self.inputs, self.output, self.axis = call, inputs, output, axis
        self.bias = None if bias is None else torch.nn.Parameter(bias)
        self.weight = weight
        if weight is not None:
            self.register_buffer("codes", weight)
            self.register_buffer("scales", torch.tensor(scales))
            self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
            self.scale = scales[0]

    def forward(self, *xs):
        operands = [through(x, *p) for x, p in zip(xs, self.inputs, strict=True)]
        if self.weight is not None:
            operands += [self.dequantized_weight(), self.bias]
        return through(self.call(*operands), *self.output)

    def dequantized_weight(self):
        if self.axis is None:
            return Q.dequantize_per_tensor(self.codes, self.scale, 0, -127, 127, torch.int8)
        return Q.dequantize_per_channel(self.codes, self.scales, self.zeros, self.axis, -127, 127, torch.int8)


def through(x, scale, zero_point):
    codes = Q.quantize_per_tensor(x, scale, zero_point, -128, 127, torch.int8)
    return Q.dequantize_per_tensor(codes, scale, zero_point, -128, 127, torch.int8)


class Capture(torch.fx.Interpreter):
    """Runs a graph eagerly, keeping what reaches each quantize, divided by the scale as it divides, and its codes."""

    def __init__(self, module):
        super().__init__(module)
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def run_node(self, n):
        result = super().run_node(n)
        if n.target is Q.quantize_per_tensor.default:
            x, scale = self.fetch_args_kwargs_from_env(n)[0][:2]
            self.seen[n.name] = ((x * (1.0 / scale)).double(), result)
        return result


@dataclass(frozen=True, kw_only=True)
class Case:
    graph: Graph
    codes: tuple[Tensor, ...]

    def site(self) -> Site:
        return run_oracle(self.exported(), self.codes).outputs[0]

    def exported(self):
        return torch.export.export(self.graph, self.floats()).module(check_guards=False)

    def floats(self) -> tuple[Tensor, ...]:
        return tuple((q.float() - z) * s for q, (s, z) in zip(self.codes, self.graph.inputs, strict=True))


def make_case(row: Row, regime: str, seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def scale(about: float = 0.02) -> float:
        if regime == "dyadic":
            return 2.0 ** round(np.log2(about))
        value = about * float(1 + torch.rand((), generator=generator, dtype=torch.float64))
        return float(np.float32(value)) if regime == "float32" else value

    def zero_point() -> int:
        return int(torch.randint(-20, 21, (), generator=generator))

    inputs = [(scale(0.03 / (i + 1)), zero_point()) for i in range(len(row.shapes))]
    codes = tuple(torch.randint(-128, 128, s, generator=generator, dtype=torch.int8) for s in row.shapes)
    weight: dict[str, Any] = {}
    if row.weight is not None:
        axis = row.weight.axis
        scales = [scale(0.01) for _ in range(1 if axis is None else row.weight.shape[axis])]
        bias = None if row.weight.bias is None else torch.randn(row.weight.bias, generator=generator)
        if regime == "dyadic" and bias is not None:
            bias = (bias * 64).round() / 64
        small = torch.randint(-127, 128, row.weight.shape, generator=generator, dtype=torch.int8)
        weight = {"weight": small, "scales": scales, "axis": axis, "bias": bias}
    graph = Graph(row.call, inputs, inputs[0], **weight)
    if not row.same:
        operands = [(q.float() - z) * s for q, (s, z) in zip(codes, inputs, strict=True)]
        operands += [graph.dequantized_weight(), graph.bias] if weight else []
        reach = float(row.call(*operands).abs().max())
        graph.output = (scale(reach / 150), zero_point())
    return Case(graph=graph, codes=codes)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_eager_graph_stays_within_delta(row, regime):
    for seed in range(3):
        case = make_case(row, regime, seed)
        model = case.exported()
        site = run_oracle(model, case.codes).outputs[0]
        capture = Capture(model)
        capture.run(*case.floats())
        r, codes = capture.seen[site.node]
        assert ((r - site.requantized.r).abs() <= site.graph_delta * (1 + 1e-9) + 1e-12).all()
        verdict = judge(codes, site.requantized, site.graph_delta)
        assert verdict.conforms, verdict
        assert verdict.mismatches <= verdict.near_tie
        if regime == "dyadic" and not row.rounds:
            assert not site.graph_delta.any()
            assert verdict.mismatches == 0
