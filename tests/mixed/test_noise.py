"""The noise of each point, of first order, is what the error of that point does; layers own the right points."""

import pytest
import torch
from nets import Table, exported, net_and_data
from torch import nn

from quantizer_sdk import UnsupportedError, calibrate, convert_pt2e, sensitivity
from quantizer_sdk.fake_quantize.function import fake_quantize
from quantizer_sdk.mixed.layers import prepare_watched
from quantizer_sdk.mixed.noise import sweep
from quantizer_sdk.mixed.outputs import Reference


def swept(model, quantizer, data, **options):
    prepared, layers = prepare_watched(model, quantizer)
    calibrate(prepared, data)
    reference = Reference.of(model, data)
    errors = reference.errors(convert_pt2e(prepared), data)
    return prepared, layers, sweep(prepared, layers, data, reference, errors, **options)


def alone(source):
    return float((source.effect**2).sum())


def chain():
    """A net that is linear in each of its points, and has one output, so that the estimate has no variance."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 1, bias=False))
    data = [torch.randn(1, 6) for _ in range(4)]
    return exported(net, data[0]), data


class Rounded(torch.fx.Interpreter):
    """Rounds at all observers, by hand, and keeps the errors; or adds errors that were kept, without those of some."""

    def __init__(self, prepared, kept=None, left_out=frozenset()):
        super().__init__(prepared)
        self.errors, self.kept, self.left_out = {}, kept, left_out

    def call_module(self, target, args, kwargs):
        if not target.startswith("activation_post_process"):
            return super().call_module(target, args, kwargs)
        observer = self.module.get_submodule(target)
        if self.kept is None:
            scale, zero_point = observer.calculate_qparams()
            ends = {"quant_min": observer.quant_min, "quant_max": observer.quant_max}
            found = fake_quantize(
                args[0], scale, zero_point, granularity=observer.granularity, dtype=observer.dtype, **ends
            )
            self.errors[target] = found - args[0]
        error = self.errors[target] if self.kept is None else self.kept[target]
        return args[0] if target in self.left_out else args[0] + error


def noise_of_rounding(prepared, model, data, chosen):
    """Return what the errors of some observers do to the outputs, all other errors staying what they are."""
    noise = signal = 0.0
    with torch.no_grad():
        for batch in data:
            run = Rounded(prepared)
            rounded = run.run(batch).double()
            without = Rounded(prepared, run.errors, chosen).run(batch).double()
            noise += float((rounded - without).square().sum())
            signal += float(model(batch).double().square().sum())
    return noise / signal


def test_it_is_what_the_errors_of_these_points_do():
    model, data = chain()
    prepared, layers, sources = swept(model, Table(), data)
    found = {(source.owners, source.constant): alone(source) for source in sources}
    calls = [node for node in prepared.graph.nodes if node.op == "call_module" and "activation" in node.target]
    tensors = {call.target: call.all_input_nodes[0].name for call in calls}
    at = {name: {target for target, tensor in tensors.items() if tensor == name} for name in set(tensors.values())}
    assert [layer.name for layer in layers.layers] == ["0", "1", "2"]
    for owners, names in {(0, 1): ["linear"], (1, 2): ["linear_1"]}.items():
        expected = noise_of_rounding(prepared, model, data, set().union(*(at[name] for name in names)))
        assert found[owners, False] == pytest.approx(expected, rel=0.01)
    for index in range(3):
        (weight,) = (name for name in at if name.endswith(f"{index}_weight"))
        expected = noise_of_rounding(prepared, model, data, at[weight])
        assert found[(index,), True] == pytest.approx(expected, rel=0.01)
    inputs = noise_of_rounding(prepared, model, data, {t for t, name in tensors.items() if name.startswith("input")})
    assert found[(0,), False] == pytest.approx(inputs, rel=0.01)


def test_parts_of_the_error_add_up_to_it():
    model, data = chain()
    prepared, _layers, sources = swept(model, Table(), data)
    reference = Reference.of(model, data)
    errors = reference.errors(convert_pt2e(prepared), data)
    noise = reference.noise(errors)
    assert sum(source.aligned for source in sources) == pytest.approx(
        noise, rel=0.02
    )  # products of errors are left out
    together = sum(source.effect for source in sources)
    assert float((together**2).sum()) == pytest.approx(noise, rel=0.04)  # one output, so that signs do not matter


def test_the_observers_learn_nothing_and_the_model_stays():
    model, data = chain()
    prepared, layers = prepare_watched(model, Table())
    calibrate(prepared, data)
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    code = prepared.code
    reference = Reference.of(model, data)
    sweep(prepared, layers, [batch * 100 for batch in data], reference, reference.outputs)
    assert prepared.code == code
    after = prepared.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_of_random_signs_the_mean_is_right():
    # Hutchinson's estimate of a sum of n squares has a relative variance of at most 2/k with k vectors.
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 16))
    data = [torch.randn(4, 6) for _ in range(2)]
    model = exported(net, data[0])
    prepared, _layers, few = swept(model, Table(), data, probes=800)
    target = next(
        call.target
        for call in prepared.graph.nodes
        if call.op == "call_module" and call.all_input_nodes[0].name == "linear"
    )
    expected = noise_of_rounding(prepared, model, data, {target})
    (between,) = (alone(source) for source in few if source.owners == (0, 1))
    assert abs(between / expected - 1) < 5 * (2 / 400) ** 0.5


def test_a_relu_of_its_own_goes_with_its_convolution():
    net, data = net_and_data()
    _prepared, layers = prepare_watched(exported(net, data[0]), Table())
    names = [layer.modules for layer in layers.layers]
    assert ("blocks.0.one", "blocks.0.relu") in names
    assert ("blocks.0",) in names  # the addition
    assert layers.clusters == ()


def test_layers_with_one_relu_for_all_are_told():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.relu = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x):
            return self.relu(self.two(self.relu(self.one(x))))

    _prepared, layers = prepare_watched(exported(Net(), torch.randn(1, 3, 4, 4)), Table())
    assert {layer.modules for layer in layers.layers} == {("one",), ("two",), ("relu",)}
    assert layers.clusters == (frozenset(range(3)),)


def test_control_flow_is_entered():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return torch.cond(x.sum() > 0, self.one, lambda x: self.two(x) * 2, (x,))

    torch.manual_seed(0)
    data = [torch.randn(2, 4) + shift for shift in (1, -1, 1, -1)]
    found = sensitivity(exported(Branches(), data[0]), Table(), data, measure=0)
    assert found.layers
    assert all(layer.share > 0 for layer in found.layers)


def test_an_op_without_a_derivative_is_named():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return torch.histc(self.linear(x), 4)

    data = [torch.randn(2, 4)]
    with pytest.raises(UnsupportedError, match="no float output"):
        sensitivity(exported(Counts(), data[0]), Table(), data)
