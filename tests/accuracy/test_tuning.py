"""tune: never worse than the quantizer as it is, judged on what was held out, within its time; its result is usable."""

import itertools
import json

import pytest
import torch
from torch import nn

from quantizer_sdk import (
    CalibrationError,
    InvalidSpecError,
    NotExportedError,
    QuantizationConfig,
    QuantizationSpec,
    RuleError,
    TuneResult,
    calibrate,
    convert_pt2e,
    find_backend,
    prepare_pt2e,
    tune,
    with_observer,
)
from quantizer_sdk.accuracy import OBSERVERS, TOOLS, Recipe, sqnr
from quantizer_sdk.accuracy import tuning as module
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.observers import MinMaxObserver, PercentileObserver
from quantizer_sdk.quantizer import ComposableQuantizer, Quantizer


def xnnpack(**config):
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, **config))


def four_bits():
    def change(config):
        weight = QuantizationSpec(torch.int8, None, -7, 7, torch.per_channel_symmetric, 0)
        return QuantizationConfig(config.input_activation, config.output_activation, weight, config.bias)

    return xnnpack().with_configs(change)


@pytest.fixture(scope="module")
def batches():
    torch.manual_seed(0)
    return [torch.rand(2, 3, 8, 8) for _ in range(7)]


@pytest.fixture(scope="module")
def model(export, batches):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)]
    return export(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)), batches[0])


def noise_of(converted, model, batches):
    with torch.no_grad():
        return sqnr([model(x) for x in batches], [converted(x) for x in batches])


@pytest.fixture(scope="module")
def tuned(model, batches):
    return tune(model, four_bits, batches, iterations=40, budget_s=60)


def test_the_best_of_all_trials_is_kept_and_made_of_all_batches(model, batches, tuned):
    assert isinstance(tuned, TuneResult)
    first, *others = tuned.trials
    assert first.recipe == Recipe()
    assert tuned.best.score == max(trial.score for trial in tuned.trials if trial.score is not None)
    assert tuned.best.score > first.score + 1
    assert {trial.recipe.bias for trial in others} == {None, "analytic", "empirical"}
    assert {trial.recipe.equalization for trial in others} >= {"weights", "activations"}
    assert any(trial.recipe.adaround for trial in others)
    assert (tuned.calibration, tuned.held_out) == (5, 2)
    assert tuned.refit
    assert tuned.refit_score == noise_of(tuned.converted, model, batches)
    assert tuned.refit_score >= tuned.refit_default_score
    prepared = prepare_pt2e(tuned.model, tuned.quantizer)
    calibrate(prepared, batches)
    assert torch.equal(convert_pt2e(prepared)(batches[0]), tuned.converted(batches[0]))


def test_its_scores_are_those_of_the_batches_that_were_held_out(model, batches):
    found = tune(model, four_bits, batches, tools=(), refit=False)
    (only,) = found.trials
    learned = [batches[index] for index in (0, 1, 3, 4, 6)]
    prepared = prepare_pt2e(model, four_bits())
    calibrate(prepared, learned)
    converted = convert_pt2e(prepared)
    assert only.score == noise_of(converted, model, [batches[2], batches[5]])
    assert only.calibration_score == noise_of(converted, model, learned)
    assert torch.equal(found.converted(batches[0]), converted(batches[0]))
    assert not found.refit


def test_its_table_says_all(tuned):
    printed = str(tuned).splitlines()
    assert len(printed) == len(tuned.trials) + 3
    assert printed[0].split() == ["tools", "held", "out", "calibration", "seconds"]
    (best,) = (line for line in printed if line.startswith("> "))
    assert tuned.best.name in best
    assert printed[-2] == "SQNR in dB; 5 batches to learn from, judged on 2 held out"
    data = json.loads(tuned.to_json())
    assert data["trials"][data["best"]]["tools"] == {
        **{name: getattr(tuned.best.recipe, name) for name in ("observer", "equalization", "smoothing", "adaround")},
        "bias": tuned.best.recipe.bias,
    }


def test_a_metric_of_ones_own_decides_and_ties_go_to_the_plain_quantizer(model, batches):
    seen = []

    def constant(expected, found):
        seen.append((len(expected), len(found)))
        return 0.5

    found = tune(model, xnnpack, batches, metric=constant, tools=("bias_correction",), refit=False)
    assert found.best is found.trials[0]
    assert found.best.score == 0.5
    assert found.metric == "constant"
    assert seen[:2] == [(5, 5), (2, 2)]

    def never(expected, found):
        return float("nan")

    assert tune(model, xnnpack, batches, metric=never, tools=(), refit=False).best.score is None


def test_one_that_does_worse_on_all_batches_is_not_made_of_them(model, batches):
    scores = itertools.chain([1.0, 1.0, 1.0, 2.0], itertools.repeat(0.0))  # the second trial is better: held out

    def metric(expected, found):
        return 1.0 if len(expected) == len(batches) and next(count) else next(scores)

    count = itertools.count()  # of scores on all batches: the tuned one first, 0, then the plain one, 1
    found = tune(model, xnnpack, batches, metric=metric, tools=("observers",))
    assert found.best.name == "min-max ranges"
    assert (found.refit_score, found.refit_default_score) == (0.0, 1.0)
    assert not found.refit


def test_when_the_time_is_over_what_there_is_is_kept(model, batches, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    whole = tune(model, xnnpack, batches, iterations=5, budget_s=1e9)
    clock = itertools.count()
    found = tune(model, xnnpack, batches, iterations=5, budget_s=0.5)
    assert len(found.trials) >= len(whole.trials) - 4  # what would have been built on the best is not
    assert found.best is found.trials[0]
    assert {trial.reason for trial in found.trials[1:]} == {"no time left"}
    assert not found.refit
    clock = itertools.count()
    half = tune(model, xnnpack, batches, iterations=5, budget_s=100)
    done = [trial.score is not None or trial.reason != "no time left" for trial in half.trials]
    assert done == sorted(done, reverse=True)
    assert 1 < sum(done) < len(done)


def test_progress_sees_every_step(model, batches):
    seen = []

    def progress(steps):
        for step in steps:
            seen.append(step.tool)
            yield step

    tune(model, xnnpack, batches, progress=progress, iterations=5)
    assert list(dict.fromkeys(seen)) == ["as it is", *TOOLS]


def test_with_few_batches_the_same_ones_learn_and_judge(model, batches):
    found = tune(model, xnnpack, batches[:2], tools=("observers",))
    assert (found.calibration, found.held_out, found.refit) == (2, 0, False)
    assert all(trial.score == trial.calibration_score for trial in found.trials)
    assert "judged on the same ones" in str(found)


def test_a_tool_that_finds_nothing_or_fails_is_said_and_costs_nothing_else(export):
    x = torch.randn(4, 16)
    plain = export(nn.Sequential(nn.Linear(16, 4), nn.Tanh()), x)
    found = tune(plain, lambda: xnnpack(is_dynamic=True), [x], tools=("observers", "equalization", "bias_correction"))
    reasons = {trial.name: trial.reason for trial in found.trials}
    assert reasons["MSE ranges"] == "no activation's range is chosen from calibration data"
    assert reasons["equalized by weights"].startswith("no two layers can be equalized")
    assert reasons["analytic bias correction"].startswith("the bias of 1 quantized layers is not corrected")


def test_a_backend_is_a_quantizer_too(export):
    x = torch.randn(4, 16)
    found = tune(export(nn.Linear(16, 4), x), find_backend("xnnpack"), [x], tools=("smooth_quant",))
    assert isinstance(found.quantizer, XNNPACKQuantizer)
    assert [trial.recipe.smoothing for trial in found.trials] == [None, 0.5, 0.75]


def test_inputs_by_name(export):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 8)

        def forward(self, x, scale):
            return self.layer(x) * scale, scale

    inputs = [{"x": torch.randn(4, 16), "scale": torch.tensor(2.0)} for _ in range(3)]
    model = torch.export.export(Named().eval(), (), inputs[0]).module()
    found = tune(model, xnnpack, inputs, iterations=5)
    assert found.best.score >= found.trials[0].score


def test_mistakes_are_named(model, batches):
    with pytest.raises(InvalidSpecError, match=r"no tool magic; there are observers, "):
        tune(model, xnnpack, batches, tools=("magic",))
    with pytest.raises(InvalidSpecError, match="budget_s=0"):
        tune(model, xnnpack, batches, budget_s=0)
    with pytest.raises(CalibrationError, match="no batch"):
        tune(model, xnnpack, [])
    with pytest.raises(NotExportedError):
        tune(nn.Linear(2, 2), xnnpack, batches)


@pytest.mark.parametrize("name", [name for name in OBSERVERS if name != "histogram"])
def test_an_observer_can_be_chosen_by_name(model, batches, name):
    quantizer = xnnpack(eps=2**-12)
    changed = with_observer(quantizer, name)
    prepared = prepare_pt2e(model, changed)
    kinds = {
        type(it)
        for it in prepared.modules()
        if hasattr(it, "calculate_qparams") and it.qscheme == torch.per_tensor_affine
    }
    assert kinds == {OBSERVERS[name].constructor}
    assert {it.eps for it in prepared.modules() if type(it) in kinds} == {2**-12}
    assert type(changed) is type(quantizer)
    given = [it for it in prepare_pt2e(model, quantizer).modules() if isinstance(it, PercentileObserver)]
    assert given == []  # the one given is what it was


def test_a_rule_for_a_module_keeps_its_place(model, batches):
    quantizer = xnnpack(activation_observer=MinMaxObserver).set_module_name("7", None)
    changed = ComposableQuantizer([with_observer(quantizer, "MSE")])
    again = with_observer(changed, "percentile 99.9")
    prepared = prepare_pt2e(model, again)
    kinds = [type(it) for it in prepared.modules() if isinstance(it, PercentileObserver)]
    assert kinds
    assert any(node.name == "linear" and "observer" not in str(node.args) for node in prepared.graph.nodes)


def test_observers_that_cannot_be_chosen_are_said():
    with pytest.raises(RuleError, match="no observer 'mean'; there are histogram, min-max"):
        with_observer(xnnpack(), "mean")
    with pytest.raises(RuleError, match="chooses all ranges by histogram already"):
        with_observer(xnnpack(), "histogram")
    with pytest.raises(RuleError, match="no activation's range"):
        with_observer(xnnpack(is_dynamic=True), "MSE")

    class Own(Quantizer):
        def annotate(self, model):
            return model

    with pytest.raises(RuleError, match="a Own has no table of rules"):
        with_observer(Own(), "MSE")
