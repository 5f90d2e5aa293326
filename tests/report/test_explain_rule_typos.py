"""A rule with a typo is named, with what it should say, wherever in a model its layer is."""

import warnings

import pytest
import torch
from quantizers import CONFIG, SmallTable
from torch import nn

from quantizer_sdk import UnusedRuleWarning, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.near_misses import close_names, close_paths

aten = torch.ops.aten
X, ROWS = torch.randn(1, 3, 8, 8), torch.randn(2, 8)


class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(*[Block(3 if index == 0 else 4, 4) for index in range(5)])
        self.classifier = nn.Linear(4, 2)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Block(3, 4)
        self.layer1 = nn.ModuleList([Block(4, 4), Block(4, 4)])
        self.layer2 = nn.ModuleList([Block(4, 4), Block(4, 4)])

    def forward(self, x):
        x = self.stem(x)
        for block in (*self.layer1, *self.layer2):
            x = x + block(x)
        return x


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        names = ("query", "key", "dense")
        self.layer = nn.ModuleList([nn.ModuleDict({name: nn.Linear(8, 8) for name in names}) for _ in range(3)])

    def forward(self, x):
        for layer in self.layer:
            x = layer["dense"](layer["query"](x) * layer["key"](x)) + x
        return x


MODELS = {"features": (Features, X), "residual": (Residual, X), "mixer": (Mixer, ROWS)}
TYPOS = [
    ("features", "features.3.conv", "features.3.convv"),
    ("features", "features.3.conv", "features.3.con"),
    ("features", "features.0.conv", "feature.0.conv"),
    ("features", "features.2.conv", "features.2.cnov"),
    ("features", "features.4.conv", "features.4.Conv"),
    ("features", "classifier", "clasifier"),
    ("features", "features.1.conv", "model.features.1.conv"),
    ("residual", "stem.conv", "stem.conv1"),
    ("residual", "layer1.0.conv", "layer1.0.covn"),
    ("residual", "layer2.1.conv", "layer2.1.conv_"),
    ("residual", "layer1.1.conv", "layer1.1.comv"),
    ("residual", "layer2.0.conv", "layer2.0,conv"),
    ("mixer", "layer.0.query", "layer.0.qeury"),
    ("mixer", "layer.1.key", "layer.1.keys"),
    ("mixer", "layer.2.dense", "layer.2.dens"),
    ("mixer", "layer.1.dense", "encoder.layer.1.dense"),
]


@pytest.fixture(scope="module")
def models(export):
    return {name: export(kind(), x) for name, (kind, x) in MODELS.items()}


@pytest.mark.parametrize(("name", "meant", "written"), TYPOS, ids=[typo for _name, _meant, typo in TYPOS])
def test_a_layer_that_was_to_be_excluded_is_named(models, name, meant, written):
    quantizer = SmallTable().set_global(CONFIG).set_module_name(written, None)
    with pytest.warns(UnusedRuleWarning, match="did you mean"):
        explanation = explain(models[name], quantizer)
    (note,) = explanation.notes
    assert f"module name {written!r} (did you mean {meant!r}" in note
    assert [(finding.kind, finding.message) for finding in explanation.warnings] == [("unused_rule", note)]
    advised = [op for op in explanation.ops if op.advice and f"{meant!r} if the rule for" in op.advice]
    assert advised
    assert {op.module == meant or op.module.startswith(f"{meant}.") for op in advised} == {True}
    assert str(explanation).count("did you mean") == 1


@pytest.mark.parametrize(("name", "meant", "written"), TYPOS[::3], ids=[typo for _name, _meant, typo in TYPOS[::3]])
def test_a_layer_that_was_to_be_included_is_named(models, name, meant, written):
    quantizer = SmallTable().set_operator_type(aten.add.Tensor, CONFIG).set_module_name(written, CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedRuleWarning)
        explanation = explain(models[name], quantizer)
    left = [op for op in explanation.float_ops() if op.module == meant]
    assert left
    for op in left:
        assert op.cause == "uncovered"
        assert op.advice.startswith(
            f"write {meant!r} if the rule for module name {written!r}, which no op meets, is meant"
        )
        assert op.advice.endswith("; or set_global(config), or a rule for its module or op")


def test_the_note_stays_with_the_model(models):
    quantizer = SmallTable().set_global(CONFIG).set_module_name("features.3.convv", None)
    with pytest.warns(UnusedRuleWarning):
        prepared = prepare_pt2e(models["features"], quantizer)
    prepared(X)
    for each in (prepared, convert_pt2e(prepared)):
        assert "'features.3.convv' (did you mean 'features.3.conv'?)" in str(explain(each))


def test_types_and_ops_have_near_misses_too(models):
    quantizer = SmallTable().set_global(CONFIG).set_module_type("torch.nn.Conv2d", None)
    quantizer.set_operator_type(aten.conv2d.padding, None)
    with pytest.warns(UnusedRuleWarning):
        (note,) = explain(models["features"], quantizer).notes
    assert "module type torch.nn.Conv2d (did you mean 'torch.nn.modules.conv.Conv2d'?)" in note
    assert "op type aten.conv2d.padding (did you mean 'aten.conv2d.default'?)" in note


def test_what_is_like_nothing_has_no_near_miss(models):
    quantizer = SmallTable().set_global(CONFIG).set_module_name("decoder", None)
    with pytest.warns(UnusedRuleWarning):
        (note,) = explain(models["features"], quantizer).notes
    assert note == "SmallTable: these rules match no op of the model: module name 'decoder'"


def test_the_likeliest_is_first_and_three_are_enough():
    paths = [f"layer{index}.conv" for index in range(9)]
    assert close_paths("layer.conv", paths) == ("layer0.conv", "layer1.conv", "layer2.conv")
    assert close_paths("layre3.conv", paths)[0] == "layer3.conv"
    assert close_paths("net.layer3.conv", paths)[0] == "layer3.conv"
    assert close_paths("conv", ["a.b.conv"]) == ("a.b.conv",)
    assert close_paths("x", paths) == ()
    assert close_names("torch.nn.Lineal", ["torch.nn.modules.linear.Linear", "a.Conv2d"]) == (
        "torch.nn.modules.linear.Linear",
    )
