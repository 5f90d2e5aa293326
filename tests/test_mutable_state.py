"""Buffers that a model writes: they stay mutable and right, and no copy writes into another's."""

import io

import pytest
import torch
from quantizers import CONFIG, SmallTable
from torch import nn

from quantizer_sdk import (
    InvalidAnnotationError,
    QuantizationAnnotation,
    Quantizer,
    calibrate,
    convert_pt2e,
    explain,
    prepare_pt2e,
)

X = torch.randn(1, 4)


class Counter(nn.Module):
    """Counts its calls, and mixes its input with the mean of what it saw."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(1, 4))

    def forward(self, x):
        self.count.add_(1)
        self.mean.copy_(self.mean * 0.5 + x * 0.5)
        return self.fc(x + self.mean)


class Cache(nn.Module):
    """A key cache, written at a position that is an input."""

    def __init__(self):
        super().__init__()
        self.key, self.query = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("cache", torch.zeros(8, 4))

    def forward(self, x, position):
        self.cache.index_put_((position,), self.key(x))
        return self.query(x) @ self.cache.t()


class Tied(Counter):
    """Holds its buffer under a second name."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner.register_buffer("again", self.mean)

    def forward(self, x):
        self.mean.copy_(self.mean * 0.5 + x * 0.5)
        return self.fc(x + self.inner.again)


STEPS = [(X,), (2 * X,), (-X,), (3 * X,)]
CACHE_STEPS = [(torch.randn(1, 4), torch.tensor([i])) for i in range(4)]
CASES = pytest.mark.parametrize(("make", "steps"), [(Counter, STEPS), (Tied, STEPS), (Cache, CACHE_STEPS)])


def quantizer():
    return SmallTable().set_global(CONFIG)


def run(model, steps):
    with torch.no_grad():
        return [model(*step).clone() for step in steps]


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers() if "activation_post_process" not in name}


@CASES
def test_calibration_leaves_the_models_and_its_own_state_alone(export, make, steps):
    model = export(make(), *steps[0])
    before = buffers(model)
    prepared = prepare_pt2e(model, quantizer())
    mine = buffers(prepared)
    calibrate(prepared, steps)
    for kept, now in ((before, buffers(model)), (mine, buffers(prepared))):
        assert all(torch.equal(kept[name], now[name]) for name in kept)


@CASES
def test_the_converted_model_writes_its_state_step_by_step(export, make, steps):
    model = export(make(), *steps[0])
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, steps)
    converted = convert_pt2e(prepared)
    expected, found = run(model, steps), run(converted, steps)
    assert all((one - other).abs().max() < 0.15 for one, other in zip(expected, found, strict=True))
    state, other = converted.state_dict(), model.state_dict()
    for name in {"count", "mean", "cache"} & state.keys():
        assert (state[name] - other[name]).abs().max() < 0.15
        assert state[name].abs().sum() > 0


@CASES
def test_running_one_copy_moves_no_other(export, make, steps):
    model = export(make(), *steps[0])
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, steps)
    converted = convert_pt2e(prepared)
    others = [(other, buffers(other)) for other in (model, prepared)]
    run(converted, steps)
    for other, kept in others:
        assert all(torch.equal(kept[name], value) for name, value in buffers(other).items())


@CASES
def test_a_saved_program_starts_where_the_float_one_does(export, make, steps):
    model = export(make(), *steps[0])
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, steps)
    converted = convert_pt2e(prepared)
    file = io.BytesIO()
    torch.export.save(torch.export.export(converted, steps[0]), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    assert all(torch.equal(*pair) for pair in zip(run(loaded, steps), run(converted, steps), strict=True))


def test_a_weight_that_the_model_writes_is_no_constant(export):
    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randn(4, 4))

        def forward(self, x):
            self.weight.mul_(0.5)
            return torch.nn.functional.linear(x, self.weight)

    reason = next(op.reason for op in explain(export(Drifting(), X), quantizer()).ops if op.op == "aten.linear.default")
    assert "is computed at run time" in reason


class WrittenSlice(nn.Module):
    """Writes through a slice of what other ops read before and after."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        z = self.first(x)
        before = self.second(z)
        z[:, 1:3] = 5.0
        return before, self.second(z), z.view(-1)


def test_readers_of_a_tensor_see_what_was_written_through_a_slice_of_it(export):
    model = export(WrittenSlice(), X)
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [(X,)])
    converted = convert_pt2e(prepared)
    for expected, found in zip(model(X), converted(X), strict=True):
        assert (expected - found).abs().max() < 0.1
    assert (converted(X)[2].view_as(X)[:, 1:3] - 5).abs().max() < 0.05


def test_views_that_are_written_through_are_left_alone_and_say_so(export):
    class Filled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            z = self.fc(x)
            z.view(-1).add_(1.0)
            return z + x

    model = export(Filled(), X)
    reasons = {op.op: op.reason for op in explain(model, quantizer()).float_ops()}
    assert reasons["aten.view.default"] == "move: linear is changed in place here, and read by others afterwards"
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [(X,)])
    assert (convert_pt2e(prepared)(X) - model(X)).abs().max() < 0.1


def test_an_op_in_place_whose_result_alone_is_read_is_quantized(export):
    class Relu(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return torch.relu_(self.conv(x))

    x = torch.randn(1, 3, 5, 5)
    model = export(Relu(), x)
    assert explain(model, quantizer()).ops[0].row == "conv"
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [(x,)])
    assert (convert_pt2e(prepared)(x) - model(x)).abs().max() < 0.1


def test_specs_on_what_writes_for_others_are_refused(export):
    class Annotating(Quantizer):
        def annotate(self, model):
            for node in model.graph.nodes:
                if node.target is torch.ops.aten.slice.Tensor:
                    node.meta["quantization_annotation"] = QuantizationAnnotation(output_qspec=CONFIG.input_activation)
            return model

        def validate(self, model):
            pass

    with pytest.raises(InvalidAnnotationError, match=r"slice_\d .*changed in place .*\n?.*read by others"):
        prepare_pt2e(export(WrittenSlice(), X), Annotating())
