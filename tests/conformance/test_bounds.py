"""That δ holds for real float32 arithmetic, and that wrong kernels do not hide behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed
from torch.nn import functional as F  # noqa: N812

from quantizer_sdk.conformance import (
    Site,
    TieCase,
    Traced,
    add_ties,
    dot_ties,
    judge,
    mean_ties,
    mul_ties,
    run_oracle,
    tie_fraction,
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


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small convolutions spend their time waiting for each other's threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


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
        reach = float(row.call(*operands).detach().abs().max())
        graph.output = (scale(reach / 150), zero_point())
    return Case(graph=graph, codes=codes)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_eager_graph_stays_within_delta(row, regime):
    for seed in range(2):
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


REQUANTIZED = (
    "conv1d conv2d conv2d.wide conv2d.1x1 conv2d.depthwise conv2d.relu conv3d conv_transpose1d "
    "linear linear.3d linear.k1"
)


def row_named(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def quantize_codes(r, zero_point, low=-128, high=127):
    """Round half to even, then add the zero point."""
    return torch.as_tensor(r).double().round().add(zero_point).clamp(low, high).to(torch.int64)


def within(r: Tensor, site: Site) -> bool:
    """Whether a kernel's r is nowhere further from the exact one than δ, float64's own rounding aside."""
    return bool(((r - site.requantized.r).abs() <= site.kernel_delta * (1 + 1e-9) + 1e-12).all())


def requantized_kernel(row: Row, case: Case) -> Tensor:
    """XNNPACK's convolution and linear before rounding: bias in whole steps of sx·sw, float32(acc) · float32(scale)."""
    (sx, zx), (sy, _) = case.graph.inputs[0], case.graph.output
    scales = np.asarray(case.graph.scales if row.weight.axis is not None else [case.graph.scale], dtype=np.float32)
    step = np.float32(sx) * scales
    bias = (
        None if row.weight.bias is None else torch.from_numpy(np.rint(case.graph.bias.detach().numpy() / step)).double()
    )
    accumulator = row.call(case.codes[0].double() - zx, case.graph.codes.double(), bias)
    assert accumulator.dtype == torch.float64
    assert float(accumulator.abs().max()) < 2**31
    scale = torch.from_numpy(step / np.float32(sy))
    if "conv" in row.name:
        scale = scale.reshape(-1, *[1] * (len(row.weight.shape) - 2))
    return (accumulator.float() * scale).double()


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize(
    "name",
    REQUANTIZED.split(),
)
def test_float_requantization_conforms(name, regime):
    for seed in range(2):
        case = make_case(row_named(name), regime, seed)
        site = case.site()
        r = requantized_kernel(row_named(name), case)
        r = r.clamp(min=0) if "relu" in name else r
        assert within(r, site)
        verdict = judge(quantize_codes(r, case.graph.output[1]), site.requantized, site.kernel_delta)
        assert verdict.conforms, verdict
        assert verdict.near_tie < 0.05 * verdict.elements


def test_int32_bias_is_explained_by_the_kernel_delta_only():
    """A bias of 0.3 steps is rounded away: half of the codes then stand at ties that the graph lies 0.15 above."""
    weight = {"weight": torch.ones(1, 1, dtype=torch.int8), "scales": [1.0], "bias": torch.tensor([0.3])}
    case = Case(
        graph=Graph(F.linear, [(1.0, 0)], (2.0, 0), **weight),
        codes=(torch.arange(-128, 128, dtype=torch.int8).reshape(-1, 1),),
    )
    site = case.site()
    verdict = judge(quantize_codes(case.codes[0] / 2, 0), site.requantized, site.kernel_delta)
    assert verdict.conforms
    assert verdict.mismatches == 64
    assert verdict.near_tie == 128
    assert float(site.kernel_delta.max()) == float(np.float32(0.3)) / 2
    assert not judge(quantize_codes(case.codes[0] / 2, 0), site.requantized, site.graph_delta).conforms


def test_bias_that_cancels_the_accumulator_may_become_either_neighbour_of_a_near_tie():
    """A million steps of bias leave float32 four bits behind the point, which sends some near-ties the other way."""
    step = np.float32(0.03) * np.float32(0.011)
    excess = 40 * torch.rand(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = {"weight": torch.full((4096, 62), -127, dtype=torch.int8), "scales": [float(np.float32(0.011))] * 4096}
    bias = ((127 * 127 * 62 + excess) * float(step)).float()
    graph = Graph(F.linear, [(float(np.float32(0.03)), 0)], (float(step), 0), axis=0, bias=bias, **weight)
    case = Case(graph=graph, codes=(torch.full((1, 62), 127, dtype=torch.int8),))
    site = case.site()
    r = requantized_kernel(row_named("linear"), case)
    assert within(r, site)
    assert float((r - site.requantized.r).abs().max()) > 0.5


def test_an_operand_within_its_error_of_a_clamp_keeps_it():
    number = Traced.constant(0.3)
    near = Fraction(float(np.float32(0.3)))  # above the exact 0.3 by just the error of the conversion
    assert float(number.error) > 0
    assert float(number.clamp(None, near).error) == float(number.error)
    assert float(number.clamp(near, None).error) == 0  # it is at the bound in both arithmetics
    assert float(number.clamp(None, Fraction(1, 4)).error) == 0
    assert float(number.clamp(Fraction(1, 2), None).error) == 0


def fixed_point_add(case: Case, sign: int = 1, order: tuple[int, int] = (0, 1)) -> Tensor:
    """XNNPACK's add before rounding: both ratios as integers over one power of two, the larger of 21 bits."""
    sy = case.graph.output[0]
    ratios = [np.float32(case.graph.inputs[i][0]) / np.float32(sy) for i in order]
    shift = 20 - (int(np.frexp(max(ratios))[1]) - 1)
    multipliers = [int(np.rint(np.ldexp(np.float64(ratio), shift))) for ratio in ratios]
    assert 2**20 <= max(multipliers) <= 2**21
    a, b = (q.to(torch.int64) - z for q, (_, z) in zip(case.codes, case.graph.inputs, strict=True))
    total = a * multipliers[0] + sign * b * multipliers[1]
    return total.double() / 2**shift


def round_half_up(r: Tensor, zero_point: int) -> Tensor:
    return quantize_codes((r + 0.5).floor(), zero_point)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", ["add", "sub"])
def test_fixed_point_addition_conforms_on_all_pairs_of_codes(name, regime):
    every = torch.arange(-128, 128, dtype=torch.int8)
    for seed in range(2):
        graph = make_case(row_named(name), regime, seed).graph
        case = Case(graph=graph, codes=(every.reshape(1, 256), every.reshape(256, 1)))
        site = case.site()
        r = fixed_point_add(case, -1 if name == "sub" else 1)
        assert within(r, site)
        verdict = judge(round_half_up(r, graph.output[1]), site.requantized, site.kernel_delta)
        assert verdict.conforms, verdict
        assert verdict.mismatches <= verdict.near_tie
        assert verdict.mismatches or regime != "dyadic"


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", ["mul", "mean", "mean.power"])
def test_float_requantization_of_products_and_sums_conforms(name, regime):
    """XNNPACK's multiply adds the zero point after rounding, its average pool before."""
    row = row_named(name)
    for seed in range(2):
        case = make_case(row, regime, seed)
        site = case.site()
        values = [q.double() - z for q, (_, z) in zip(case.codes, case.graph.inputs, strict=True)]
        (sy, zy), scale = case.graph.output, np.float32(1)
        for sx, _ in case.graph.inputs:
            scale = scale * np.float32(sx)
        scale = scale / np.float32(sy)
        if name == "mul":
            r = (values[0] * values[1]).float() * torch.tensor(scale)
            codes = quantize_codes(r, zy)
        else:
            count = values[0].shape[2] * values[0].shape[3]
            r = (row.call(values[0]) * count).round().float() * torch.tensor(scale / np.float32(count))
            codes = quantize_codes(r + zy, 0)
        assert within(r.double(), site)
        verdict = judge(codes, site.requantized, site.kernel_delta)
        assert verdict.conforms, verdict


UNIT = 2.0**-24


@pytest.mark.parametrize("name", ["linear", "linear.k1", "conv2d.wide", "addmm"])
def test_delta_of_a_contraction_by_its_formula(name):
    """(K + 1)·u·(Σ|x̂ŵ| + |b|) / sy, 2u·Σ|x̂ŵ| / sy for the dequantizes of both operands, and 2u·|r|."""
    row = row_named(name)
    case = make_case(row, "float32", 0)
    site = case.site()
    weight = case.graph.dequantized_weight().double().abs()
    inputs, bias = case.floats()[0].double().abs(), case.graph.bias.detach().double().abs()
    products = int(np.prod(row.weight.shape)) // row.weight.bias
    size = (products + 1) * row.call(inputs, weight, bias) + 2 * row.call(inputs, weight, 0 * bias)
    expected = UNIT * size / case.graph.output[0] + 2 * UNIT * site.requantized.r.abs()
    assert torch.allclose(site.graph_delta, expected, rtol=1e-3, atol=0)


def test_delta_of_a_mean_by_its_formula():
    """Its operand's rounding, N - 1 additions and a division: (N + 1)·u·Σ|x̂| / (N·sy), all but, and 2u·|r|."""
    case = make_case(row_named("mean"), "float32", 0)
    site = case.site()
    size = case.floats()[0].double().abs().mean([2, 3], keepdim=True) / case.graph.output[0]
    expected = 49 * UNIT * size + 3 * UNIT * site.requantized.r.abs()
    assert torch.allclose(site.graph_delta, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("name", "own"), [("add", 1), ("mul", 3)])
def test_delta_of_an_elementwise_operator_by_its_formula(name, own):
    """Add: u·(|â| + |b̂|), its own rounding and 2u·|r|; mul: both operands' roundings, its own and 2u·|r|."""
    case = make_case(row_named(name), "float32", 0)
    site = case.site()
    carried = sum(x.double().abs() for x in case.floats()) / case.graph.output[0] if name == "add" else 0
    expected = UNIT * carried + (own + 2) * UNIT * site.requantized.r.abs()
    assert torch.allclose(site.graph_delta, expected, rtol=1e-4, atol=0)


def test_scales_that_are_no_float32_numbers_cost_a_rounding_each():
    graphs = [make_case(row_named("mul"), "float32", 0).graph, make_case(row_named("mul"), "float32", 0).graph]
    graphs[1].inputs = [(scale * (1 + 2.0**-40), zero_point) for scale, zero_point in graphs[0].inputs]
    first, second = (Case(graph=g, codes=make_case(row_named("mul"), "float32", 0).codes).site() for g in graphs)
    assert torch.allclose(second.graph_delta, first.graph_delta * 7 / 5, rtol=1e-4, atol=0)
    assert torch.allclose(second.kernel_delta, first.kernel_delta * 7 / 4, rtol=1e-4, atol=0)


def test_dyadic_sums_beyond_24_bits_are_not_taken_for_exact():
    """Within 2^24 steps δ is 0; beyond, the elements that may round have one, and do round."""
    codes = torch.full((2, 4096), 127, dtype=torch.int8)
    codes[1, 16:] = 0
    weight = {"weight": torch.full((1, 4096), 127, dtype=torch.int8), "scales": [1.0], "bias": torch.tensor([1.0])}
    case = Case(graph=Graph(F.linear, [(1.0, 0)], (2.0**19, 0), **weight), codes=(codes,))
    model = case.exported()
    site = run_oracle(model, case.codes).outputs[0]
    capture = Capture(model)
    capture.run(*case.floats())
    error = (capture.seen[site.node][0].detach() - site.requantized.r).abs()
    assert float(error[0]) > 0
    assert float(error[0]) <= float(site.graph_delta[0])
    assert float(error[1]) == float(site.graph_delta[1]) == 0.0


def from_ties(call, ties: TieCase, *, weighted: bool = False, bias: Tensor | None = None) -> Case:
    """The case of a row's operator on constructed ties."""
    inputs = list(zip(ties.scales, ties.zero_points, strict=True))
    output = (ties.output_scale, ties.output_zero_point)
    if not weighted:
        return Case(graph=Graph(call, inputs, output), codes=ties.codes)
    weight = {"weight": ties.codes[1], "scales": [ties.scales[1]] * len(ties.codes[1]), "axis": 0, "bias": bias}
    return Case(graph=Graph(call, inputs[:1], output, **weight), codes=ties.codes[:1])


def convolution_on_ties(zero_point: int = 5, *, relu: bool = False, bias: float = 2.0) -> Case:
    def call(x, w, b):
        return F.relu(F.conv2d(x, w, b)) if relu else F.conv2d(x, w, b)

    ties = dot_ties((2, 6, 9, 9), (8, 6, 3, 3), output_zero_point=zero_point)
    return from_ties(call, ties, weighted=True, bias=torch.full((8,), bias))


TIES = {
    "conv2d": convolution_on_ties,
    "linear": lambda zero_point=5: from_ties(
        F.linear, dot_ties((32, 40), (16, 40), output_zero_point=zero_point), weighted=True
    ),
    "add": lambda zero_point=5: from_ties(torch.add, add_ties((4, 500), output_zero_point=zero_point)),
    "sub": lambda zero_point=5: from_ties(torch.sub, add_ties((4, 500), output_zero_point=zero_point)),
    "mul": lambda zero_point=5: from_ties(torch.mul, mul_ties((4, 500), output_zero_point=zero_point)),
    "mean": lambda zero_point=5: from_ties(
        lambda x: x.mean([2, 3], keepdim=True), mean_ties((16, 32, 4, 4), 16, output_zero_point=zero_point)
    ),
}


@pytest.mark.parametrize("zero_point", [-7, 0, 4, 5])
@pytest.mark.parametrize("name", TIES)
def test_eager_graph_is_exact_on_constructed_ties(name, zero_point):
    case = TIES[name](zero_point)
    model = case.exported()
    site = run_oracle(model, case.codes).outputs[0]
    assert tie_fraction(site.requantized) > 0.08
    capture = Capture(model)
    capture.run(*case.floats())
    verdict = judge(capture.seen[site.node][1], site.requantized, 0.0)
    assert verdict.conforms, verdict
    assert not verdict.constant
    assert verdict.saturated < 0.5
    assert verdict.distinct_codes > 50
    assert not site.graph_delta.any()


ROUNDINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "truncation": lambda r, z: quantize_codes(r.trunc(), z),
    "floor": lambda r, z: quantize_codes(r.floor(), z),
    "half up": lambda r, z: quantize_codes((r + 0.5).floor(), z),
    "half away from zero": lambda r, z: quantize_codes((r.abs() + 0.5).floor() * r.sign(), z),
    "zero point before rounding": lambda r, z: quantize_codes(r + z, 0),
    "zero point off by one": lambda r, z: quantize_codes(r, z + 1),
    "zero point left out": lambda r, _: quantize_codes(r, 0),
    "scale doubled": lambda r, z: quantize_codes(r * 2, z),
    "not saturating": lambda r, z: quantize_codes(r, z, -256, 255).to(torch.int8).to(torch.int64),
}


@pytest.mark.parametrize("mutant", ROUNDINGS)
@pytest.mark.parametrize("name", TIES)
def test_mutant_rounding_is_caught_on_ties(name, mutant):
    """r is exact in float64 on these data, so that each mutant is wrong in its own way only."""
    site = TIES[name]().site()
    codes = ROUNDINGS[mutant](site.requantized.r, site.requantized.zero_point)
    verdict = judge(codes, site.requantized, site.graph_delta)
    assert not verdict.conforms, verdict
    assert verdict.outside == verdict.mismatches


@pytest.mark.parametrize("mutant", ROUNDINGS)
@pytest.mark.parametrize("name", ["conv2d", "linear", "mul"])
def test_mutant_rounding_is_caught_by_the_kernel_delta_of_exact_kernels(name, mutant):
    site = TIES[name]().site()
    codes = ROUNDINGS[mutant](site.requantized.r, site.requantized.zero_point)
    assert not judge(codes, site.requantized, site.kernel_delta).conforms


@pytest.mark.parametrize(
    ("name", "hidden"),
    [("add", "half up"), ("sub", "half up"), ("mean", "zero point before rounding")],
)
def test_kernel_delta_admits_the_tie_rule_of_the_known_kernel(name, hidden):
    """XNNPACK's own add rounds half up and its average pool adds the zero point first: δ must not fail them.

    What δ hides here, matching a kernel's own profile with δ = 0 brings out.
    """
    site = TIES[name]().site()
    codes = ROUNDINGS[hidden](site.requantized.r, site.requantized.zero_point)
    assert judge(codes, site.requantized, site.kernel_delta).conforms
    assert not judge(codes, site.requantized, 0.0).conforms
    for mutant in ("truncation", "zero point off by one", "zero point left out", "scale doubled", "not saturating"):
        codes = ROUNDINGS[mutant](site.requantized.r, site.requantized.zero_point)
        assert not judge(codes, site.requantized, site.kernel_delta).conforms


def test_only_odd_zero_points_tell_where_the_zero_point_is_added():
    for zero_point in (-7, 4, 5):
        site = TIES["conv2d"](zero_point).site()
        codes = ROUNDINGS["zero point before rounding"](site.requantized.r, zero_point)
        assert judge(codes, site.requantized, site.kernel_delta).conforms == (zero_point % 2 == 0)


def test_generic_scales_hide_wrong_tie_rules():
    """Why ties must be constructed."""
    site = make_case(row_named("conv2d"), "float32", 0).site()
    assert tie_fraction(site.requantized) == 0
    for mutant in ("half up", "zero point before rounding"):
        codes = ROUNDINGS[mutant](site.requantized.r, site.requantized.zero_point)
        assert judge(codes, site.requantized, site.kernel_delta).mismatches == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (lambda: convolution_on_ties(relu=True), lambda: convolution_on_ties(relu=False)),
        (convolution_on_ties, lambda: convolution_on_ties(bias=0.0)),
    ],
    ids=["relu dropped", "bias dropped"],
)
def test_mutant_operator_is_caught(right, wrong):
    site, mutant = right().site(), wrong().site()
    for delta in (site.graph_delta, site.kernel_delta):
        assert not judge(mutant.requantized.expected, site.requantized, delta).conforms


@pytest.mark.parametrize("regime", REGIMES)
def test_swapped_scales_of_an_addition_are_caught(regime):
    case = make_case(row_named("add"), regime, 0)
    site = case.site()
    codes = round_half_up(fixed_point_add(case, order=(1, 0)), case.graph.output[1])
    for delta in (site.graph_delta, site.kernel_delta):
        assert not judge(codes, site.requantized, delta).conforms


def test_delta_of_a_kernel_is_narrower_than_a_wrong_scale_ratio():
    """It is tight enough to see a ratio that is wrong in its 20th bit."""
    site = make_case(row_named("conv2d.1x1"), "float32", 0).site()
    r = site.requantized.r * (1 + 2.0**-19)
    assert ((r - site.requantized.r).abs() > site.kernel_delta).float().mean() > 0.5
