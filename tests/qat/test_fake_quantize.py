"""Fake quantizers: the values of q/dq, the gradients of the surrogate, and their switches."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantizer_sdk import InvalidSpecError, NonFiniteError, QuantizationSpec, UncalibratedError
from quantizer_sdk.fake_quantize import (
    FakeQuantize,
    FixedQParamsFakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    LearnableFakeQuantize,
    default_dynamic_fake_quant,
    default_fake_quant,
    disable_fake_quant,
    disable_observer,
    enable_fake_quant,
    enable_observer,
)
from quantizer_sdk.fake_quantize.create import create_fake_quantize
from quantizer_sdk.fake_quantize.function import fake_quantize
from quantizer_sdk.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerAxis,
    PerBlock,
    PerChannelMinMaxObserver,
    PerGroup,
    PerTensor,
    PlaceholderObserver,
)
from quantizer_sdk.qdq import Layout, QParams, quantize

AFFINE, SYMMETRIC = torch.per_tensor_affine, torch.per_tensor_symmetric
CHANNEL = torch.per_channel_symmetric
GRANULARITIES = {
    "tensor": (PerTensor(), Layout.PER_TENSOR, (1,)),
    "axis": (PerAxis(1), Layout.PER_CHANNEL, (8,)),
    "last_axis": (PerAxis(-1), Layout.PER_CHANNEL, (8,)),
    "group": (PerGroup(4), Layout.PER_GROUP, (6, 2)),
    "block": (PerBlock((2, 4)), Layout.PER_BLOCK, (3, 2)),
}


def values_of(x, scale, zero_point, granularity, layout, ends):
    """Quantize and dequantize by the ops that conversion emits."""
    per_tensor = layout is Layout.PER_TENSOR
    qparams = QParams(
        layout=layout,
        scale=float(scale) if per_tensor else scale,
        zero_point=int(zero_point) if per_tensor else zero_point.long(),
        quant_min=ends[0],
        quant_max=ends[1],
        dtype=torch.int8,
        ch_axis=1 if layout is Layout.PER_CHANNEL else None,
        block_size=granularity.block_of(x.shape),
    )
    rest = (torch.float32,) if layout is Layout.PER_GROUP else ()
    return layout.value[1](quantize(x, qparams), *qparams.arguments(), *rest)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(GRANULARITIES)), st.sampled_from([(-128, 127), (-8, 7), (0, 100)]), st.integers(0, 10**6))
def test_the_values_are_those_of_the_ops_to_the_bit(name, ends, seed):
    granularity, layout, shape = GRANULARITIES[name]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 8, generator=generator) * 3
    scale = torch.rand(shape, generator=generator) / 10 + 1e-3
    zero_point = torch.randint(ends[0], ends[1] + 1, shape, generator=generator, dtype=torch.int32)
    rounded = fake_quantize(
        x, scale, zero_point, quant_min=ends[0], quant_max=ends[1], granularity=granularity, dtype=torch.int8
    )
    assert torch.equal(rounded, values_of(x, scale, zero_point, granularity, layout, ends))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", GRANULARITIES)
def test_gradients_pass_inside_the_range_and_stop_outside(name, dtype):
    granularity, _layout, shape = GRANULARITIES[name]
    ends = (-8, 7) if dtype is torch.int8 else (-448, 448)
    x = (torch.randn(6, 8) * 0.2 * ends[1]).requires_grad_()
    scale, zero_point = torch.full(shape, 0.11), torch.full(shape, 0, dtype=torch.int32)
    incoming = torch.randn(6, 8)
    fake_quantize(
        x, scale, zero_point, quant_min=ends[0], quant_max=ends[1], granularity=granularity, dtype=dtype
    ).backward(incoming)
    codes = torch.round(x.detach() / 0.11)
    inside = (codes >= ends[0]) & (codes <= ends[1])
    assert bool((~inside).any())
    assert torch.equal(x.grad, incoming * inside)


def surrogate(x, scale, zero_point, low, high):
    """What the gradients are of: quantization without rounding."""
    return (torch.clamp(x / scale + zero_point, low, high) - zero_point) * scale


def test_the_gradient_is_that_of_the_surrogate_by_finite_differences():
    x = torch.linspace(-2, 2, 81, dtype=torch.float64)
    scale, zero_point, low, high = 0.13, 2, -8, 7
    step = 1e-6
    differences = (
        surrogate(x + step, scale, zero_point, low, high) - surrogate(x - step, scale, zero_point, low, high)
    ) / (2 * step)
    y = x.float().requires_grad_()
    fake_quantize(
        y,
        torch.tensor([scale]),
        torch.tensor([zero_point], dtype=torch.int32),
        quant_min=low,
        quant_max=high,
        granularity=PerTensor(),
        dtype=torch.int8,
    ).sum().backward()
    # They differ at most where rounding decides the side of an end.
    near = ((x / scale + zero_point - low).abs() < 0.51) | ((x / scale + zero_point - high).abs() < 0.51)
    assert torch.allclose(y.grad.double()[~near], differences[~near], atol=1e-6)
    assert 0 < int(near.sum()) < 20


# Modules


MAKERS = {
    "min_max": lambda: FakeQuantize(MinMaxObserver, dtype=torch.int8),
    "moving": lambda: FakeQuantize(MovingAverageMinMaxObserver, dtype=torch.int8, averaging_constant=0.5),
    "histogram": lambda: FakeQuantize(HistogramObserver, dtype=torch.int8),
    "channel": lambda: FakeQuantize(PerChannelMinMaxObserver, -127, 127, dtype=torch.int8, qscheme=CHANNEL, ch_axis=1),
    "group": lambda: FakeQuantize(MinMaxObserver, dtype=torch.int8, granularity=PerGroup(4)),
    "fused": lambda: FusedMovingAvgObsFakeQuantize(dtype=torch.int8, averaging_constant=0.5),
    "fused_channel": lambda: FusedMovingAvgObsFakeQuantize(
        MovingAveragePerChannelMinMaxObserver, -127, 127, dtype=torch.int8, qscheme=CHANNEL, ch_axis=1
    ),
    "learnable": lambda: LearnableFakeQuantize(dtype=torch.int8, qscheme=SYMMETRIC),
    "learnable_affine": lambda: LearnableFakeQuantize(dtype=torch.int8, qscheme=AFFINE),
    "learnable_channel": lambda: LearnableFakeQuantize(
        PerChannelMinMaxObserver, -127, 127, channels=8, dtype=torch.int8, qscheme=CHANNEL, ch_axis=1
    ),
}
ALL = pytest.mark.parametrize("name", MAKERS)


@ALL
def test_it_rounds_to_the_qparams_it_reports(name):
    module = MAKERS[name]()
    assert not module.calibrated
    for scale in (1.0, 2.0):
        x = torch.randn(6, 8) * scale
        rounded = module(x)
    assert module.calibrated
    scale, zero_point = module.calculate_qparams()
    observer = module.activation_post_process
    again = fake_quantize(
        x,
        scale,
        zero_point,
        quant_min=observer.quant_min,
        quant_max=observer.quant_max,
        granularity=observer.granularity,
        dtype=observer.dtype,
    )
    assert torch.allclose(rounded, again, atol=1e-6)
    assert not torch.equal(rounded, x)


@ALL
def test_switches(name):
    model = nn.Sequential(MAKERS[name](), nn.ReLU())
    x = torch.randn(6, 8)
    model(x)
    before = [value.clone() for value in model[0].calculate_qparams()]
    model.apply(disable_observer)
    model(100 * x)
    assert all(torch.equal(*pair) for pair in zip(before, model[0].calculate_qparams(), strict=True))
    model.apply(disable_fake_quant)
    assert torch.equal(model(x), torch.relu(x))
    model.apply(enable_fake_quant)
    assert not torch.equal(model(x), torch.relu(x))
    model.apply(enable_observer)
    model(100 * x)
    changed = not torch.equal(before[0], model[0].calculate_qparams()[0])
    assert changed or "learnable" in name  # which learns by gradient after its start


@ALL
def test_state_dicts_resume_to_the_bit(name):
    batches = [torch.randn(6, 8) * (1 + step) for step in range(4)]
    one, other = MAKERS[name](), MAKERS[name]()
    for batch in batches[:2]:
        one(batch)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for batch in batches[2:]:
        assert torch.equal(one(batch), other(batch))
    for pair in zip(one.calculate_qparams(), other.calculate_qparams(), strict=True):
        assert torch.equal(*pair)


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half(name, dtype):
    module = MAKERS[name]()
    x = torch.randn(6, 8, dtype=dtype)
    assert module(x).dtype == dtype
    assert (module(x) - x).abs().max() < 0.5


@ALL
def test_nan_is_refused_by_name(name):
    module = MAKERS[name]()
    module.activation_post_process.location = "[conv -> add]"
    with pytest.raises(NonFiniteError, match=r"on \[conv -> add\] was given 1 NaN"):
        module(torch.cat([torch.randn(47), torch.tensor([float("nan")])]).reshape(6, 8))


@pytest.mark.parametrize("scheme", [AFFINE, SYMMETRIC])
def test_the_fused_op_learns_the_range_that_the_observer_learns(scheme):
    fused = FusedMovingAvgObsFakeQuantize(dtype=torch.int8, qscheme=scheme, averaging_constant=0.3)
    plain = FakeQuantize(MovingAverageMinMaxObserver, dtype=torch.int8, qscheme=scheme, averaging_constant=0.3)
    for _ in range(5):
        x = torch.randn(64)
        fused(x)
        plain(x)
    for end in ("min_val", "max_val"):
        assert torch.allclose(
            getattr(fused.activation_post_process, end), getattr(plain.activation_post_process, end), rtol=1e-6
        )
    # Its own scale for a symmetric scheme is up to a step in 127 wider: conversion takes what training has seen.
    assert float(fused.calculate_qparams()[0]) == pytest.approx(float(plain.calculate_qparams()[0]), rel=0.01)


def test_fixed_qparams():
    made = FixedQParamsFakeQuantize(FixedQParamsObserver.with_args(scale=1 / 256, zero_point=0, dtype=torch.uint8))
    x = torch.rand(100)
    assert torch.equal(made(x), torch.round(x * 256).clamp(0, 255) / 256)
    made(100 * x)
    assert float(made.calculate_qparams()[0]) == 1 / 256
    with pytest.raises(InvalidSpecError, match="no FixedQParamsObserver"):
        FixedQParamsFakeQuantize(MinMaxObserver)


def test_dynamic_ones_take_each_inputs_range():
    made = default_dynamic_fake_quant()
    for scale in (1.0, 100.0):
        x = torch.randn(50) * scale
        width = float(x.max() - x.min())
        assert float((made(x) - x).abs().max()) <= width / 255 * 0.51
    assert default_fake_quant().activation_post_process.dtype is torch.uint8


def test_casts():
    made = create_fake_quantize(QuantizationSpec(torch.bfloat16), "here")
    x = torch.randn(20, requires_grad=True)
    assert torch.equal(made(x), x.detach().bfloat16().float())
    made(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(20))


# What cannot be


def test_what_the_fused_op_does_not_know_is_refused():
    with pytest.raises(InvalidSpecError, match="the op averages min and max"):
        FusedMovingAvgObsFakeQuantize(MinMaxObserver)
    with pytest.raises(InvalidSpecError, match=r"not torch.int8 PerGroup\(group_size=4\); use FakeQuantize"):
        FusedMovingAvgObsFakeQuantize(dtype=torch.int8, granularity=PerGroup(4))


def test_what_a_learnable_one_needs_is_named():
    with pytest.raises(InvalidSpecError, match="needs channels="):
        LearnableFakeQuantize(PerChannelMinMaxObserver, qscheme=CHANNEL)
    with pytest.raises(InvalidSpecError, match="static scales per tensor or per axis"):
        LearnableFakeQuantize(granularity=PerGroup(4))
    with pytest.raises(UncalibratedError, match="has seen no data"):
        LearnableFakeQuantize().calculate_qparams()


def test_an_observer_that_is_none():
    with pytest.raises(InvalidSpecError, match="observer made a Identity"):
        FakeQuantize(lambda **_options: nn.Identity())


# Learned step size


def test_scale_and_zero_point_are_parameters_from_construction():
    module = LearnableFakeQuantize(dtype=torch.int8, qscheme=AFFINE)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(module.scale), id(module.zero_point)}
    module(torch.randn(50))  # the start is written into the same Parameters
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(module.scale), id(module.zero_point)}
    assert set(module.state_dict()) >= {"scale", "zero_point", "initialized"}
    symmetric = LearnableFakeQuantize(dtype=torch.int8, qscheme=SYMMETRIC)
    assert not symmetric.zero_point.requires_grad


def test_the_engine_gives_it_as_many_channels_as_there_are():
    spec = QuantizationSpec(
        torch.int8, LearnableFakeQuantize.with_args(observer=PerChannelMinMaxObserver), -7, 7, CHANNEL, 1
    )
    assert create_fake_quantize(spec, "here", shape=(3, 5)).scale.shape == (5,)


def test_it_starts_where_lsq_starts():
    module = LearnableFakeQuantize(quant_min=-8, quant_max=7, dtype=torch.int8, qscheme=SYMMETRIC)
    x = torch.randn(1000)
    module(x)
    assert float(module.scale.detach()) == pytest.approx(float(2 * x.abs().mean() / math.sqrt(7)), rel=1e-6)


def test_the_gradient_of_the_scale_is_that_of_lsq():
    module = LearnableFakeQuantize(quant_min=-8, quant_max=7, dtype=torch.int8, qscheme=SYMMETRIC)
    x = torch.randn(200) * 2
    module(x)
    module(x).sum().backward()
    scale = float(module.scale.detach())
    codes = torch.round(x / scale)
    each = torch.where(codes <= -8, -8.0, torch.where(codes >= 7, 7.0, codes - x / scale))
    expected = float(each.sum()) / math.sqrt(200 * 8)
    assert float(module.scale.grad) == pytest.approx(expected, rel=1e-4)


def test_training_the_scale_lowers_the_error():
    module = LearnableFakeQuantize(quant_min=-2, quant_max=1, dtype=torch.int8, qscheme=AFFINE)
    x = torch.randn(2000) + 0.5
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        error = (module(x) - x).square().mean()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.6 * errors[0]
    _scale, zero_point = module.calculate_qparams()
    assert zero_point.dtype == torch.int32


def test_a_spec_that_names_an_observer_gets_a_fake_quantizer_around_it():
    made = create_fake_quantize(QuantizationSpec(torch.int8, HistogramObserver), "here")
    assert isinstance(made, FakeQuantize)
    assert isinstance(made.activation_post_process, HistogramObserver)
    assert made.activation_post_process.location == "here"
    dynamic = create_fake_quantize(QuantizationSpec(torch.int8, qscheme=AFFINE, is_dynamic=True), "here")
    assert isinstance(dynamic.activation_post_process, PlaceholderObserver)
    x = torch.randn(30)
    assert 0 < (dynamic(x) - x).abs().max() < 0.05
