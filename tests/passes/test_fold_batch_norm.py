"""Batch norms fold into the layer before them, to the numbers of the unfolded model, or stay for a reason."""

import copy

import pytest
import torch
from quantizers import CONFIG, Apply, SmallTable, randomize_norms, targets
from torch import nn
from torch.nn import functional

from quantizer_sdk import convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.model_copy import copy_model
from quantizer_sdk.passes.fold_batch_norm import fold_batch_norm
from quantizer_sdk.verify import Stage, verify


def folded(model):
    """Return a copy of an exported model with its batch norms folded."""
    result = copy_model(model)
    fold_batch_norm(result)
    result.recompile()
    verify(result, Stage.EXPORTED, after="fold_batch_norm")
    return result


def assert_same_numbers(result, model, *inputs):
    for _ in range(2):
        actual, expected = result(*inputs), model(*inputs)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def norm_of(layer, channels, **options):
    rank = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    dims = next((dims for dims in rank if f"{dims}d" in type(layer).__name__), 1)
    return rank[dims](channels, **options)


def layer_norm_input(name, bias=True, groups=1, **options):
    """Return the layer of this name, with 4 channels in and 6 out, a batch norm after it, and an input, in float64."""
    if name == "Linear":
        layer, x = nn.Linear(4, 6, bias=bias), torch.randn(3, 4)
    else:
        dims = int(name[-2])
        layer = getattr(nn, name)(4, 6, 3, bias=bias, groups=groups, stride=2)
        x = torch.randn(2, 4, *[5] * dims)
    return layer, norm_of(layer, 6, **options), x.double()


def sequence(*layers):
    return randomize_norms(nn.Sequential(*layers).double().eval())


CONVS = [f"Conv{transposed}{dims}d" for transposed in ("", "Transpose") for dims in (1, 2, 3)]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", [*CONVS, "Linear"])
def test_a_folded_layer_computes_what_layer_and_norm_computed(export, name, bias):
    layer, norm, x = layer_norm_input(name, bias)
    model = export(sequence(layer, norm), x)
    result = folded(model)
    assert "batch_norm" in targets(model)
    assert "batch_norm" not in targets(result)
    assert_same_numbers(result, model, x)


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"])
def test_each_group_gets_the_factors_of_its_own_channels(export, name):
    layer, norm, x = layer_norm_input(name, groups=2)
    model = export(sequence(layer, norm), x)
    result = folded(model)
    assert "batch_norm" not in targets(result)
    assert_same_numbers(result, model, x)


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.5])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_eps_and_affine_parameters_are_honoured(export, eps, affine):
    layer, norm, x = layer_norm_input("Conv2d", eps=eps, affine=affine)
    norm.momentum = 0.03
    model = export(sequence(layer, norm), x)
    result = folded(model)
    assert "batch_norm" not in targets(result)
    assert_same_numbers(result, model, x)


def test_padding_given_by_a_word_is_folded_too(export):
    x = torch.randn(2, 4, 5, 5).double()
    model = export(sequence(nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6)), x)
    assert_same_numbers(folded(model), model, x)
    assert "batch_norm" not in targets(folded(model))


def test_a_chain_of_norms_folds_into_one_layer(export):
    x = torch.randn(2, 4, 5, 5).double()
    model = export(sequence(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)), x)
    result = folded(model)
    assert targets(result) == ["conv2d"]
    assert_same_numbers(result, model, x)


def test_the_users_model_keeps_its_weights_and_graph(export):
    layer, norm, x = layer_norm_input("Conv2d")
    model = export(sequence(layer, norm), x)
    state, code = copy.deepcopy(model.state_dict()), model.code
    folded(model)
    assert model.code == code
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_float_originals_and_statistics_are_gone_from_the_state_dict(export):
    layer, norm, x = layer_norm_input("Conv2d", bias=False)
    result = folded(export(sequence(layer, norm), x))
    # The batch counter, which inference does not read, goes when the model is converted.
    assert set(result.state_dict()) - {"1.num_batches_tracked"} == {"0.weight", "0.bias"}
    assert result.state_dict()["0.weight"].dtype is torch.float64


def test_a_bfloat16_weight_is_rounded_once(export):
    layer, norm, x = layer_norm_input("Conv2d")
    module = sequence(layer, norm).to(torch.bfloat16)
    model = export(module, x.to(torch.bfloat16))
    result = folded(model)
    factor = module[1].weight.double() / torch.sqrt(module[1].running_var.double() + module[1].eps)
    expected = (module[0].weight.double() * factor.reshape(-1, 1, 1, 1)).to(torch.bfloat16)
    assert torch.equal(result.state_dict()["0.weight"], expected)


# Shared layers


def test_a_convolution_shared_by_two_norms_gets_a_folded_copy_for_each(export):
    def run(self, x):
        return self.first(self.conv(x)) - self.second(self.conv(x + 1))

    x = torch.randn(2, 4, 5, 5).double()
    parts = {"conv": nn.Conv2d(4, 6, 3), "first": nn.BatchNorm2d(6), "second": nn.BatchNorm2d(6)}
    model = export(randomize_norms(Apply(run, **parts).double()), x)
    result = folded(model)
    assert targets(result).count("conv2d") == 2
    assert "batch_norm" not in targets(result)
    assert_same_numbers(result, model, x)
    assert "conv.weight" in result.state_dict()
    assert len([name for name in result.state_dict() if "conv.weight" in name]) == 2


def test_a_convolution_with_a_norm_in_one_call_and_none_in_the_other(export):
    x = torch.randn(2, 4, 5, 5).double()
    parts = {"conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.BatchNorm2d(4)}
    run = Apply(lambda self, x: self.conv(self.norm(self.conv(x))), **parts)
    model = export(randomize_norms(run.double()), x)
    result = folded(model)
    assert targets(result) == ["conv2d", "conv2d"]
    assert_same_numbers(result, model, x)
    assert torch.equal(result.state_dict()["conv.weight"], model.state_dict()["conv.weight"])


@pytest.mark.parametrize("norms", [1, 2])
def test_a_block_called_twice_is_folded_once(export, norms):
    block = sequence(nn.Conv2d(4, 4, 3, padding=1), *[nn.BatchNorm2d(4) for _ in range(norms)])
    x = torch.randn(2, 4, 5, 5).double()
    model = export(Apply(lambda self, x: self.block(self.block(x)), block=block), x)
    result = folded(model)
    assert targets(result) == ["conv2d", "conv2d"]
    assert len([name for name in result.state_dict() if "weight" in name]) == 1
    first, second = result.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    assert first.args[1:3] == second.args[1:3]
    assert_same_numbers(result, model, x)


def test_a_weight_that_something_else_reads_stays_beside_its_folded_copy(export):
    def run(self, x):
        return self.norm(self.conv(x)) + self.conv.weight.sum()

    x = torch.randn(2, 4, 5, 5).double()
    parts = {"conv": nn.Conv2d(4, 6, 3), "norm": nn.BatchNorm2d(6)}
    model = export(randomize_norms(Apply(run, **parts).double()), x)
    result = folded(model)
    assert "batch_norm" not in targets(result)
    assert_same_numbers(result, model, x)
    assert torch.equal(result.state_dict()["conv.weight"], model.state_dict()["conv.weight"])


# What is not folded


def test_a_layer_that_feeds_others_too_is_not_folded(export):
    def run(self, x):
        hidden = self.conv(x)
        return self.norm(hidden) + torch.sigmoid(hidden)

    x = torch.randn(2, 4, 5, 5).double()
    parts = {"conv": nn.Conv2d(4, 6, 3), "norm": nn.BatchNorm2d(6)}
    model = export(randomize_norms(Apply(run, **parts).double()), x)
    result = folded(model)
    assert "batch_norm" in targets(result)
    assert_same_numbers(result, model, x)
    assert reason_of(model) == "conv2d also feeds sigmoid, so batch_norm cannot be folded into it"


def test_two_norms_on_one_call_are_not_folded(export):
    def run(self, x):
        hidden = self.conv(x)
        return self.first(hidden) + self.second(hidden)

    x = torch.randn(2, 4, 5, 5).double()
    parts = {"conv": nn.Conv2d(4, 6, 3), "first": nn.BatchNorm2d(6), "second": nn.BatchNorm2d(6)}
    model = export(randomize_norms(Apply(run, **parts).double()), x)
    assert targets(folded(model)).count("batch_norm") == 2
    assert_same_numbers(folded(model), model, x)


def test_a_norm_exported_in_training_mode_is_not_folded():
    layer, norm, x = layer_norm_input("Conv2d")
    model = torch.export.export(nn.Sequential(layer, norm).double().train(), (x,)).module()
    assert "batch_norm" in targets(folded(model))
    assert reason_of(model) == "batch_norm was exported in training mode; call model.eval() before exporting"


def test_a_norm_without_running_statistics_is_not_folded(export):
    layer, norm, x = layer_norm_input("Conv2d", track_running_stats=False)
    model = export(sequence(layer, norm), x)
    assert "batch_norm" in targets(folded(model))
    # Export writes such a norm as one in training mode, so either is the truth.
    assert "training mode" in reason_of(model) or "no running statistics" in reason_of(model)


def test_a_norm_after_something_else_is_not_folded(export):
    x = torch.randn(2, 4, 5, 5).double()
    model = export(sequence(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), x)
    assert "batch_norm" in targets(folded(model))
    assert "follows relu, which is no convolution" in reason_of(model)


def test_a_weight_computed_at_run_time_is_not_folded(export):
    def run(self, x):
        return self.norm(functional.conv2d(x, self.weight * 2))

    x = torch.randn(2, 4, 5, 5).double()
    parts = {"weight": nn.Parameter(torch.randn(6, 4, 3, 3)), "norm": nn.BatchNorm2d(6)}
    model = export(randomize_norms(Apply(run, **parts).double()), x)
    assert_same_numbers(folded(model), model, x)
    assert reason_of(model) == "mul is computed at run time, so batch_norm cannot be folded into conv2d"


def test_a_norm_over_another_axis_than_the_features_of_linear_is_not_folded(export):
    x = torch.randn(2, 6, 6).double()
    model = export(sequence(nn.Linear(6, 6), nn.BatchNorm1d(6)), x)
    assert_same_numbers(folded(model), model, x)
    assert "axis 1 of a tensor of rank 3" in reason_of(model)


def test_a_norm_after_a_convolution_without_a_batch_axis_is_not_folded(export):
    def run(self, x):  # its axis 1 is the height, which is 4 as well
        return functional.batch_norm(self.conv(x), self.norm.running_mean, self.norm.running_var)

    x = torch.randn(3, 4, 4).double()
    parts = {"conv": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4)}
    model = export(randomize_norms(Apply(run, **parts).double()), x)
    assert_same_numbers(folded(model), model, x)
    assert "axis 1 of a tensor of rank 3" in reason_of(model)


def reason_of(model):
    """Return why explain() says that a batch norm stays."""
    (record,) = [op for op in explain(model, Nothing()).ops if op.op == "aten.batch_norm.default"]
    assert record.state == "float"
    return record.reason


class Nothing(SmallTable):
    """Annotates nothing; for models of float64, which explain() can look at all the same."""

    rows = ()


# In the engine


def test_explain_says_folded_and_into_what(export):
    layer, norm, x = layer_norm_input("Conv2d")
    model = export(randomize_norms(nn.Sequential(layer, norm)), x.float())
    explanation = explain(model, SmallTable().set_global(CONFIG))
    (record,) = [op for op in explanation.ops if op.op == "aten.batch_norm.default"]
    assert (record.state, record.module) == ("folded", "1")
    assert record.reason == "folded into the constants of conv2d"
    assert explanation.count("folded") == 1


def test_a_folded_model_converts_without_its_counter(export):
    layer, norm, x = layer_norm_input("Conv2d")
    model = export(randomize_norms(nn.Sequential(layer, norm)), x.float())
    prepared = prepare_pt2e(model, SmallTable().set_global(CONFIG))
    prepared(x.float())
    state = convert_pt2e(prepared).state_dict()
    assert set(state) == {"0.weight", "0.bias", "0.weight_scale", "0.weight_zero_point"}
