"""Rules that meet a budget: figures are those of the model that the rules make, and no miss goes unsaid."""

import json

import pytest
import torch
from nets import PER_TENSOR, Table, Wide, exported, net_and_data
from quantizers import CONFIG, ByHand

from quantizer_sdk import (
    Budget,
    BudgetError,
    RuleError,
    calibrate,
    convert_pt2e,
    explain,
    load_config,
    mixed_precision,
    prepare_pt2e,
)
from quantizer_sdk.mixed.layers import prepare_watched
from quantizer_sdk.mixed.rule_list import with_rules


def converted(model, quantizer, data):
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, data)
    return convert_pt2e(prepared)


def sqnr(model, quantized, data):
    with torch.no_grad():
        pairs = [(model(batch).double(), quantized(batch).double()) for batch in data]
    noise = sum(float((one - other).square().sum()) for one, other in pairs)
    return -10 * torch.tensor(noise / sum(float(one.square().sum()) for one, _ in pairs)).log10().item()


@pytest.fixture(scope="module")
def setting():
    net, data = net_and_data()
    return exported(net, data[0]), data


def test_a_target_is_met_by_the_model_that_the_rules_make(setting, tmp_path):
    model, data = setting
    quantizer = Table()
    before = sqnr(model, converted(model, quantizer, data), data)
    told = []
    result = mixed_precision(model, quantizer, data, Budget(sqnr=before + 6), progress=told.append)
    assert result.met
    assert result.before.sqnr == pytest.approx(before, abs=1e-4)
    made = converted(model, result.quantizer, data)
    assert sqnr(model, made, data) == pytest.approx(result.after.sqnr, abs=1e-4)
    assert result.after.sqnr >= before + 6
    assert result.after == result.rules[-1].figures
    gains = sum(rule.gain for rule in result.rules)
    assert result.before.sqnr + gains == pytest.approx(result.after.sqnr, abs=1e-6)
    assert quantizer._rules.empty  # the user's own stays
    result.save(tmp_path / "rules.toml")
    loaded = converted(model, load_config(tmp_path / "rules.toml", Table()), data)
    assert all(torch.equal(loaded(batch), made(batch)) for batch in data)
    content = json.loads(result.to_json())
    assert content["met"] is True
    assert [rule["choice"] for rule in content["rules"]] == [rule.choice for rule in result.rules]
    assert len(str(result).splitlines()) == 2 + len(result.rules)
    assert len([words for words in told if " dB (" in words]) == result.trials - 1


def test_a_target_that_is_met_already_needs_no_rules(setting):
    model, data = setting
    result = mixed_precision(model, Table(), data, Budget(sqnr=1.0))
    assert (result.rules, result.trials, result.met) == ((), 1, True)


def test_a_miss_is_an_error_that_holds_the_best(setting):
    model, data = setting
    with pytest.raises(BudgetError, match="no rules were found that reach 300 dB, at most 1 float layers") as error:
        mixed_precision(model, Table(), data, Budget(sqnr=300.0, max_float_layers=1), max_trials=4)
    closest = error.value.closest
    assert not closest.met
    assert closest.float_layers <= 1
    assert "not met" in str(closest)
    assert sqnr(model, converted(model, closest.quantizer, data), data) == pytest.approx(closest.after.sqnr, abs=1e-4)


def test_no_more_layers_are_float_than_allowed(setting):
    model, data = setting
    most = 2
    result = mixed_precision(model, Table(), data, Budget(max_float_layers=most))
    assert result.float_layers <= most
    floats = [op for op in explain(model, result.quantizer).float_ops() if "excluded" in op.reason]
    assert len({op.module for op in floats} - {"blocks.0.relu", "blocks.1.relu"}) == result.float_layers
    assert result.after.sqnr >= result.before.sqnr


def test_all_float_is_no_quantized_model():
    torch.manual_seed(0)
    data = [torch.randn(2, 4)]
    model = exported(torch.nn.Sequential(torch.nn.Linear(4, 3)), data[0])
    with pytest.raises(BudgetError) as error:
        mixed_precision(model, Table(), data, Budget(sqnr=1000.0))
    assert error.value.closest.float_layers == 0


def test_wider_codes_where_the_backend_has_them_and_only_there(setting):
    model, data = setting
    for table, wide in ((Wide, True), (Table, False)):
        result = mixed_precision(model, table(), data, Budget(max_float_layers=0))
        chosen = {rule.choice: rule for rule in result.rules}
        assert ("16-bit activations" in chosen) == wide
        if wide:
            assert chosen["16-bit activations"].layers == ("head",)
            (config,) = chosen["16-bit activations"].configs
            assert config.input_activation.dtype is torch.int16


def test_scales_by_channel_where_channels_differ():
    net, data = net_and_data()
    with torch.no_grad():
        net.blocks[0].two.weight[1] *= 100
        net.blocks[0].two.bias[1] = 0
        net.blocks[1].one.weight[:, 1] /= 100  # what reads it
        net.head.weight[:, 1] /= 100
    model = exported(net, data[0])
    result = mixed_precision(model, Table().set_global(PER_TENSOR), data, Budget(max_float_layers=0))
    assert "per-channel weights" in {rule.choice for rule in result.rules if "blocks.0.two" in rule.layers}


def test_accuracy_by_a_metric_of_the_users(setting):
    model, data = setting
    with torch.no_grad():
        expected = [model(batch) for batch in data]

    def closeness(quantized):
        with torch.no_grad():
            return -max(float((quantized(it) - out).abs().max()) for it, out in zip(data, expected, strict=True))

    plain = closeness(converted(model, Table(), data))
    result = mixed_precision(model, Table(), data, Budget(accuracy=plain / 2, metric=closeness))
    assert result.met
    assert result.before.accuracy == pytest.approx(plain)
    assert result.after.accuracy >= plain / 2
    assert closeness(converted(model, result.quantizer, data)) == pytest.approx(result.after.accuracy)
    assert "accuracy" in str(result)


def test_a_rule_for_a_module_leaves_those_inside_it(setting):
    model, _data = setting
    _prepared, layers = prepare_watched(model, Table())
    (index,) = (number for number, layer in enumerate(layers.layers) if layer.name == "blocks.0")
    before = {op.node: op.state for op in explain(model, Table()).ops}
    after = {op.node: op.state for op in explain(model, with_rules(Table(), layers, {index: None})).ops}
    (changed,) = {node for node in before if before[node] != after[node]}
    assert changed == "add"
    mine = Table().set_global(CONFIG).set_module_type(torch.nn.ReLU, None).set_module_name("blocks.0.two", None)
    _prepared, layers = prepare_watched(model, mine)
    (index,) = (number for number, layer in enumerate(layers.layers) if layer.name == "blocks.0")
    before = {op.node: op.state for op in explain(model, mine).ops}
    after = {op.node: op.state for op in explain(model, with_rules(mine, layers, {index: None})).ops}
    assert {node for node in before if before[node] != after[node]} == {"add"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "asks for nothing"),
        ({"accuracy": 0.9}, "accuracy and no metric"),
        ({"metric": len, "sqnr": 20.0}, "metric and no accuracy"),
        ({"max_float_layers": -1}, "expected 0 or more"),
    ],
)
def test_a_budget_that_says_nothing(fields, words):
    with pytest.raises(BudgetError, match=words) as error:
        Budget(**fields)
    assert error.value.closest is None


def test_only_rules_of_a_table_can_be_mixed(setting):
    model, data = setting
    with pytest.raises(RuleError, match="ByHand"):
        mixed_precision(model, ByHand(lambda _: None), data, Budget(sqnr=20))
