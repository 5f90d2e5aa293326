"""Training on torchao's engine and on ours from one seed: the same where torchao keeps the user's settings."""

import copy

import pytest
import torch
import torchao.quantization.pt2e as their_observers
import torchao.quantization.pt2e.quantize_pt2e as their_engine
import torchao.quantization.pt2e.quantizer as theirs
from torch import nn

import quantizer_sdk as ours
import quantizer_sdk.fake_quantize as our_fakes
import quantizer_sdk.observers as our_observers

aten = torch.ops.aten
KEY = "quantization_annotation"
X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(7))
TARGET = torch.randn(8, 2, generator=torch.Generator().manual_seed(8))


class Net(nn.Module):
    def __init__(self, eps=1e-5, momentum=0.1, rate=0.0):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6, eps=eps, momentum=momentum)
        self.second, self.second_norm = nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, eps=eps, momentum=momentum)
        self.drop = nn.Dropout(rate) if rate else nn.Identity()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.second_norm(self.second(x)))
        return self.fc(self.drop(x.mean((2, 3))))


def specs(side):
    kit = (ours, our_observers, our_fakes) if side == "ours" else (theirs, their_observers, their_observers)
    classes, observers, fakes = kit
    activation = classes.QuantizationSpec(
        torch.int8,
        fakes.FakeQuantize.with_args(observer=observers.MovingAverageMinMaxObserver, eps=2**-12),
        -128,
        127,
        torch.per_tensor_affine,
    )
    weight = classes.QuantizationSpec(
        torch.int8,
        fakes.FakeQuantize.with_args(observer=observers.MovingAveragePerChannelMinMaxObserver, eps=2**-12),
        -127,
        127,
        torch.per_channel_symmetric,
        0,
    )
    return classes, activation, weight


def quantizer_of(side):
    classes, activation, weight = specs(side)
    base = ours.Quantizer if side == "ours" else theirs.Quantizer

    class Convolutions(base):
        def annotate(self, model):
            for node in model.graph.nodes:
                if node.target is aten.conv2d.default:
                    node.meta[KEY] = classes.QuantizationAnnotation(
                        {node.args[0]: activation, node.args[1]: weight}, _annotated=True
                    )
                elif node.target is aten.relu.default:
                    node.meta[KEY] = classes.QuantizationAnnotation({}, activation, _annotated=True)
            return model

        def validate(self, model):
            pass

    return Convolutions()


def prepared_by(side, net):
    exported = torch.export.export(copy.deepcopy(net).train(), (X,)).module()
    engine = ours if side == "ours" else their_engine
    return engine.prepare_qat_pt2e(exported, quantizer_of(side))


def train(model, steps=20):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        x = X + 0.1 * torch.randn_like(X)
        optimizer.zero_grad()
        loss = (model(x) - TARGET).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def net_of(**options):
    torch.manual_seed(0)
    return Net(**options)


def converted_by(side, model):
    if side == "ours":
        return ours.convert_pt2e(model.eval())
    their_observers.move_exported_model_to_eval(model)
    return their_engine.convert_pt2e(model)


def structure(model):
    """Return the calls of a graph with their numbers, operands given by what makes them."""

    def name(value):
        if isinstance(value, torch.fx.Node):
            return (
                "constant" if value.op == "get_attr" else value.op if value.op != "call_function" else str(value.target)
            )
        return tuple(map(name, value)) if isinstance(value, (list, tuple)) else value

    skipped = {"aten.dropout.default"}
    calls = [node for node in model.graph.nodes if node.op == "call_function" and str(node.target) not in skipped]
    return sorted((str(node.target), name(node.args)) for node in calls)


def test_without_the_peers_defects_both_train_and_convert_alike():
    net = net_of()
    models = {side: prepared_by(side, net) for side in ("ours", "theirs")}
    losses = {side: train(model) for side, model in models.items()}
    assert losses["ours"] == pytest.approx(losses["theirs"], rel=1e-5)
    assert losses["ours"][-1] < 0.5 * losses["ours"][0]
    converted = {side: converted_by(side, model) for side, model in models.items()}
    mine, peers = converted["ours"].state_dict(), converted["theirs"].state_dict()
    weights = sorted((tuple(value.shape), value.sum().item()) for value in mine.values() if value.dtype == torch.int8)
    assert weights == sorted(
        (tuple(value.shape), value.sum().item()) for value in peers.values() if value.dtype == torch.int8
    )
    assert [entry[0] for entry in structure(converted["ours"])] == [
        entry[0] for entry in structure(converted["theirs"])
    ]
    assert structure(converted["ours"]) == structure(converted["theirs"])
    assert torch.allclose(converted["ours"](X), converted["theirs"](X), atol=1e-5)


class Eager(nn.Module):
    """What training with quantization is to compute, written out for this net."""

    def __init__(self, net):
        super().__init__()
        self.net = copy.deepcopy(net)
        _classes, activation, weight = specs("ours")

        def make(spec):
            fields = {"dtype": spec.dtype, "quant_min": spec.quant_min, "quant_max": spec.quant_max}
            return spec.observer_or_fake_quant_ctr.with_args(**fields, qscheme=spec.qscheme, ch_axis=spec.ch_axis)()

        self.round_input, self.round_first, self.round_second = (make(activation) for _ in range(3))
        self.round_weight, self.round_second_weight = make(weight), make(weight)

    def layer(self, x, conv, norm, round_weight):
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = round_weight(conv.weight * factor.reshape(-1, 1, 1, 1))
        y = nn.functional.conv2d(x, weight) / factor.reshape(-1, 1, 1)
        return torch.relu(norm(y if conv.bias is None else y + conv.bias.reshape(-1, 1, 1)))

    def forward(self, x):
        net = self.net
        x = self.round_first(self.layer(self.round_input(x), net.conv, net.norm, self.round_weight))
        x = self.round_second(self.layer(x, net.second, net.second_norm, self.round_second_weight))
        return net.fc(net.drop(x.mean((2, 3))))


@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("options", [{"eps": 1e-3, "momentum": 0.03}, {"rate": 0.3}], ids=["eps_momentum", "dropout"])
def test_the_users_settings_survive_in_ours(side, options):
    net = net_of(**options)
    expected = train(Eager(net).train())
    losses = train(prepared_by(side, net))
    if side == "ours":
        assert losses == pytest.approx(expected, rel=1e-5)
    elif "eps" in options:
        assert losses != pytest.approx(expected, rel=1e-3)  # its norms run with eps 1e-5 and momentum 0.1


def test_a_rate_of_dropout_survives_switching_modes_in_ours():
    net = net_of(rate=0.3)
    mine = prepared_by("ours", net)
    mine.eval()
    mine.train()
    peer = prepared_by("theirs", net)
    their_observers.move_exported_model_to_eval(peer)
    their_observers.move_exported_model_to_train(peer)
    rates = {
        side: [node.args[1] for node in model.graph.nodes if node.target is aten.dropout.default]
        for side, model in {"ours": mine, "theirs": peer}.items()
    }
    assert rates == {"ours": [0.3], "theirs": [0.5]}
