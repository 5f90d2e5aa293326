"""A prepared model in the hands of a training loop: modes, control flow, checkpoints, mixed precision, compilation."""

import copy
import io

import pytest
import torch
from quantizers import Apply, SmallTable
from torch import nn

from quantizer_sdk import (
    QuantizationConfig,
    QuantizationSpec,
    UncalibratedError,
    UnsupportedError,
    allow_exported_model_train_eval,
    calibrate,
    convert_pt2e,
    move_exported_model_to_eval,
    move_exported_model_to_train,
    prepare_pt2e,
    prepare_qat_pt2e,
)
from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.errors import CalibrationError
from quantizer_sdk.fake_quantize import (
    FakeQuantize,
    FakeQuantizeBase,
    FusedMovingAvgObsFakeQuantize,
    LearnableFakeQuantize,
    QATSchedule,
    disable_observer,
    freeze_bn_stats,
    update_bn_stats,
)
from quantizer_sdk.observers import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from quantizer_sdk.qdq import is_quantize

aten = torch.ops.aten
X = torch.randn(16, 3, 8, 8)
ROW = torch.randn(6, 4)


def config(fake=FusedMovingAvgObsFakeQuantize):
    weight = FakeQuantize.with_args(observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0)
    activation = QuantizationSpec(torch.int8, fake, -128, 127, torch.per_tensor_affine)
    return QuantizationConfig(
        activation, activation, QuantizationSpec(torch.int8, weight, -127, 127, torch.per_channel_symmetric, 0)
    )


def table(**options):
    return SmallTable().set_global(config(**options))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3, momentum=0.03)
        self.drop, self.fc = nn.Dropout(0.3), nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.fc(self.drop(x).mean((2, 3)))


def exported(module, *inputs, mode=True):
    return torch.export.export(module.train(mode), inputs).module()


def prepared_net(mode=True, **options):
    torch.manual_seed(0)
    return prepare_qat_pt2e(exported(Net(), X, mode=mode), table(**options))


def train(model, steps, optimizer=None, start=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) if optimizer is None else optimizer
    for step in range(start, start + steps):
        torch.manual_seed(100 + step)
        optimizer.zero_grad()
        (model(X + 0.1 * torch.randn_like(X)) - 1).square().mean().backward()
        optimizer.step()
    return optimizer


# Modes


def varies(model, x=X):
    return not torch.equal(model(x), model(x))


@pytest.mark.parametrize("deepcopied", [False, True])
@pytest.mark.parametrize("mode", [True, False])
def test_a_prepared_model_switches_between_modes(mode, deepcopied):
    model = prepared_net(mode)
    model = copy.deepcopy(model) if deepcopied else model
    model(X)
    model.apply(disable_observer)
    assert model.training
    assert varies(model)
    model.eval()
    assert not model.training
    mean = model.norm.running_mean.clone()
    assert not varies(model)
    assert torch.equal(model.norm.running_mean, mean)
    model.train()
    assert varies(model)
    assert not torch.equal(model.norm.running_mean, mean)


@pytest.mark.parametrize("mode", [True, False])
def test_dropout_and_norm_keep_what_the_user_gave_them(mode):
    model = prepared_net(mode)
    (dropout,) = [node for node in model.graph.nodes if node.target is aten.dropout.default]
    (norm,) = [node for node in model.graph.nodes if node.target is aten.batch_norm.default]
    assert dropout.args[1] == 0.3
    assert norm.args[6:8] == (0.03, 1e-3)
    float_model = exported(Net(), X, mode=mode)
    for move in (move_exported_model_to_eval, move_exported_model_to_train):
        move(float_model)
        (dropout,) = [node for node in float_model.graph.nodes if node.target is aten.dropout.default]
        assert dropout.args[1] == 0.3


def test_dropout_stands_behind_the_rounding_and_drops_as_many_as_it_should():
    module = Apply(lambda self, x: torch.relu(self.drop(self.fc(x))), fc=nn.Linear(4, 200), drop=nn.Dropout(0.3))
    model = prepare_qat_pt2e(exported(module, ROW), table())
    (dropout,) = [node for node in model.graph.nodes if node.target is aten.dropout.default]
    assert "activation_post_process" in dropout.args[0].target
    kept = [float((model(ROW.abs() + 1) != 0).double().mean()) for _ in range(20)]
    model.eval()
    share = float((model(ROW.abs() + 1) != 0).double().mean())
    assert sum(kept) / 20 == pytest.approx(0.7 * share, abs=0.03)


@pytest.mark.parametrize("mode", [True, False])
def test_a_float_exported_model_switches_by_a_flag(mode):
    torch.manual_seed(0)
    module = Net()
    model = exported(module, X, mode=mode)
    with pytest.raises(NotImplementedError):
        model.train()
    assert allow_exported_model_train_eval(model) is model
    assert model.training == mode
    for current in (model, copy.deepcopy(model)):
        assert move_exported_model_to_eval(current) is current
        assert not varies(current)
        assert move_exported_model_to_train(current) is current
        assert varies(current)
    move_exported_model_to_eval(model)
    module.load_state_dict(model.state_dict())
    assert torch.allclose(model(X), module.eval()(X), atol=1e-6)
    assert int(model.norm.num_batches_tracked) == 2  # the two runs in training mode, and none of the others


def test_modes_reach_into_control_flow():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 4)

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda y: self.drop(self.fc(y)), lambda y: self.drop(y) + y, (x,))

    for sign in (1, -1):
        x = sign * ROW.abs()
        float_model = move_exported_model_to_train(exported(Branches(), x))
        prepared = prepare_qat_pt2e(exported(Branches(), x), table())
        for model in (float_model, prepared, copy.deepcopy(prepared)):
            model.train()
            assert varies(model, x)
            model.eval()
            assert not varies(model, x)


def test_attention_and_recurrent_dropout_follow_the_mode():
    class Attention(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=0.4 if self.training else 0.0)

    model = move_exported_model_to_train(exported(Attention(), torch.randn(1, 2, 6, 8)))
    assert varies(model, torch.randn(1, 2, 6, 8))
    assert not varies(move_exported_model_to_eval(model), torch.randn(1, 2, 6, 8))


def test_a_model_for_inference_cannot_be_moved_to_training():
    prepared = prepare_pt2e(exported(Net(), X, mode=False), table(fake=MovingAverageMinMaxObserver))
    assert move_exported_model_to_eval(prepared) is prepared
    with pytest.raises(UnsupportedError, match="use prepare_qat_pt2e"):
        move_exported_model_to_train(prepared)


# Control flow


class Cond(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: torch.relu(self.norm(self.a(y))), self.b, (x,))


class NoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen, self.fc = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            x = self.frozen(x)
        return self.fc(x)


def test_branches_train_and_convert():
    torch.manual_seed(0)
    model = prepare_qat_pt2e(exported(Cond(), ROW, mode=False), table())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = [ROW.abs(), -ROW.abs()]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = sum((model(x) - 0.5).square().mean() for x in inputs)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters() if "weight" in name)
    model.eval()
    with torch.no_grad():
        for x in inputs:
            model(x)
        model.apply(disable_observer)
        expected = [model(x) for x in inputs]
        converted = convert_pt2e(model)
        for x, value in zip(inputs, expected, strict=True):
            assert torch.allclose(converted(x), value, atol=1e-5)
    assert {v.dtype for v in converted.state_dict().values() if v.dim() == 2} == {torch.int8}
    assert len(list(graphs_of(converted))) == 3
    torch.export.export(converted, (ROW,))
    inside = [graph for path, graph in graphs_of(model) if path]
    fakes = [module for graph in inside for module in graph.modules() if isinstance(module, FakeQuantize)]
    assert fakes
    assert not any(fake.synchronize for fake in fakes)


def test_what_runs_without_gradients_does_not_train():
    torch.manual_seed(0)
    model = prepare_qat_pt2e(exported(NoGrad(), ROW), table())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    assert len(before) == 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(ROW).sum().backward()
    optimizer.step()
    changed = {name.split(".")[-2] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"fc"}
    model.eval()
    model(ROW)
    model.apply(disable_observer)
    converted = convert_pt2e(model)
    assert torch.allclose(converted(ROW), model(ROW), atol=1e-5)
    assert {v.dtype for v in converted.state_dict().values() if v.dim() == 2} == {torch.int8}


# Checkpoints


@pytest.mark.parametrize("fake", [FusedMovingAvgObsFakeQuantize, LearnableFakeQuantize, MovingAverageMinMaxObserver])
def test_a_checkpoint_resumes_to_the_bit(fake):
    straight = prepared_net(fake=fake)
    optimizer = train(straight, 3)
    file = io.BytesIO()
    torch.save({"model": straight.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(straight, 3, optimizer, start=3)
    file.seek(0)
    saved = torch.load(file)
    resumed = prepared_net(fake=fake)
    resumed.load_state_dict(saved["model"])
    again = torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)
    again.load_state_dict(saved["optimizer"])
    train(resumed, 3, again, start=3)
    one, other = straight.state_dict(), resumed.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_learnable_scales_are_trained_and_converted():
    model = prepared_net(fake=LearnableFakeQuantize)
    scales = [name for name, _ in model.named_parameters() if name.endswith(".scale")]
    assert scales
    model(X)
    before = {name: model.get_parameter(name).detach().clone() for name in scales}
    train(model, 4)
    assert all(not torch.equal(model.get_parameter(name), before[name]) for name in scales)
    model.eval()
    expected = model(X)
    converted = convert_pt2e(model)
    assert torch.allclose(converted(X), expected, atol=1e-5)


# The schedule


def test_the_schedule_freezes_what_is_due_when_it_is_due():
    model = prepared_net()
    schedule = QATSchedule(model, fake_quant_after=1, freeze_observers_after=2, freeze_batch_norm_after=3)
    fakes = [module for module in model.modules() if isinstance(module, FakeQuantizeBase)]
    seen = []
    for _ in range(4):
        ranges = [fake.scale.clone() for fake in fakes]
        mean = model.norm.running_mean.clone()
        rounding = bool(fakes[0].fake_quant_enabled)
        train(model, 1)
        same_ranges = all(torch.equal(*pair) for pair in zip(ranges, [fake.scale for fake in fakes], strict=True))
        seen.append((rounding, same_ranges, torch.equal(mean, model.norm.running_mean)))
        schedule.step()
    assert seen == [(False, False, False), (True, False, False), (True, True, False), (True, True, True)]
    assert int(model.norm.num_batches_tracked) == 3
    other = prepared_net()
    resumed = QATSchedule(other, freeze_observers_after=2)
    resumed.load_state_dict(schedule.state_dict())
    assert not bool(next(m for m in other.modules() if isinstance(m, FakeQuantizeBase)).observer_enabled)


def test_a_schedule_that_would_learn_nothing():
    with pytest.raises(CalibrationError, match="observers need a step"):
        QATSchedule(prepared_net(), freeze_observers_after=0)


def test_frozen_norms_use_their_statistics_while_dropout_goes_on():
    model = prepared_net()
    model(X)
    model.apply(disable_observer)
    model.apply(freeze_bn_stats)
    mean = model.norm.running_mean.clone()
    assert varies(model)
    assert torch.equal(mean, model.norm.running_mean)
    model.apply(update_bn_stats)
    model(X)
    assert not torch.equal(mean, model.norm.running_mean)


# Mixed precision and compilation


def test_training_under_autocast():
    model = prepared_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(X).float() - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    model.eval()
    model(X)
    converted = convert_pt2e(model)
    assert (converted(X) - model(X)).abs().max() < 0.1


def test_a_compiled_model_trains_alike():
    def run(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

    module = Apply(run, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 2))
    eager, other = (prepare_qat_pt2e(exported(module, X), table()) for _ in range(2))
    compiled = torch.compile(other, backend="aot_eager")
    train(eager, 3)
    train(compiled, 3)
    for name, value in eager.state_dict().items():
        assert torch.allclose(value.float(), other.state_dict()[name].float(), atol=1e-4), name
    ours, theirs = convert_pt2e(eager.eval()), convert_pt2e(other.eval())
    # Parameters that far apart may round to neighbouring codes, inside the model too: a step of the result each time.
    step = max(node.args[1] for node in ours.graph.nodes if is_quantize(node))
    assert ((ours(X) - theirs(X)).abs() <= step + 1e-4).all()


@pytest.mark.parametrize("fake", [FusedMovingAvgObsFakeQuantize, LearnableFakeQuantize, MovingAverageMinMaxObserver])
def test_rounding_by_a_range_that_nobody_chose_is_refused_by_name(fake):
    with pytest.raises(
        UncalibratedError, match=r"on \[fc_weight -> linear\], .* has seen no data .*training mode first"
    ):
        prepared_net(fake=fake).eval()(X)


def test_data_that_calibrates_may_also_prepare_for_inference():
    # Fake quantizers in a config for training work as observers of prepare_pt2e too.
    prepared = prepare_pt2e(exported(Net(), X, mode=False), table())
    calibrate(prepared, [X])
    converted = convert_pt2e(prepared)
    assert (converted(X) - exported(Net(), X, mode=False)(X)).shape == (16, 2)
