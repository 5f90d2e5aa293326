"""What is wrong with a file of rules is named by file and key, with what would be accepted."""

import json

import pytest
import torch
from quantizers import ByHand

from quantizer_sdk import (
    ConfigurationError,
    DerivedQuantizationSpec,
    QuantizationConfig,
    QuantizerError,
    load_config,
    save_config,
)
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.observers import MinMaxObserver

GOOD = {
    "format": "quantizer_sdk rules",
    "version": 1,
    "rules": {"global": "mine", "modules": {"head": "float"}},
    "configs": {
        "mine": {
            "input_activation": {"dtype": "int8", "observer": "MinMaxObserver", "arguments": {"eps": 0.1}},
            "weight": {"dtype": "int8", "quant_min": -127, "quant_max": 127, "qscheme": "per_channel_symmetric"},
            "bias": {"kind": "product", "dtype": "int32"},
        }
    },
}


def changed(*keys, to):
    content = json.loads(json.dumps(GOOD))
    table = content
    for key in keys[:-1]:
        table = table[key]
    if to is None:
        del table[keys[-1]]
    else:
        table[keys[-1]] = to
    return content


ACT = ("configs", "mine", "input_activation")
BAD = [
    (("version",), 2, "version is 2; this release reads version 1"),
    (("version",), None, "the file lacks version"),
    (("format",), "other", "format is 'other'; accepted are quantizer_sdk rules"),
    (("rule",), {}, "rule is not known; accepted here are format, version, quantizer, rules, configs"),
    (("rules", "global"), "yours", "rules.global is 'yours'; accepted are float, mine"),
    (("rules", "modules"), [], "rules.modules is []; expected a table"),
    (("rules", "modules", "a.b"), "yours", "rules.modules.\"a.b\" is 'yours'; accepted are float, mine"),
    (("rules", "operators"), {"aten.lineal.default": "mine"}, "names no op; expected one of torch.ops"),
    (("configs", "float"), {}, "configs.float is the name of no config"),
    (("configs", "mine", "activation"), {}, "configs.mine.activation is not known"),
    ((*ACT, "dtype"), "int9", "configs.mine.input_activation.dtype is 'int9'; expected the name of a torch.dtype"),
    ((*ACT, "dtype"), None, "configs.mine.input_activation lacks dtype"),
    ((*ACT, "quant_min"), "low", "input_activation.quant_min is 'low'; expected an integer"),
    ((*ACT, "quant_min"), True, "input_activation.quant_min is True; expected an integer"),
    ((*ACT, "quant_min"), -300, "input_activation contradicts itself; QuantizationSpec: quant_min is -300"),
    ((*ACT, "qscheme"), "per_row", "qscheme is 'per_row'; accepted are per_channel_affine"),
    ((*ACT, "is_dynamic"), 1, "is_dynamic is 1; expected true or false"),
    ((*ACT, "observer"), "os.system", "observer is 'os.system'; accepted are"),
    ((*ACT, "observer"), None, "arguments stands alone"),
    ((*ACT, "arguments", "eps"), [1], "arguments.eps is [1]; expected a number"),
    ((*ACT, "arguments", "granularity"), {"granularity": "PerCow"}, "granularity is 'PerCow'; accepted are"),
    ((*ACT, "arguments", "granularity"), {"granularity": "PerGroup"}, "missing 1 required"),
    ((*ACT, "arguments", "granularity"), {"granularity": "PerToken", "axis": 1}, "axis is not known; PerToken has"),
    (("configs", "mine", "bias", "kind"), "sum", "bias.kind is 'sum'; accepted are fixed, product"),
]


@pytest.mark.parametrize(("keys", "value", "words"), BAD, ids=[words[:40] for _keys, _value, words in BAD])
def test_a_mistake_is_named_and_sets_nothing(tmp_path, keys, value, words):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(changed(*keys, to=value)))
    quantizer = XNNPACKQuantizer()
    with pytest.raises(ConfigurationError) as error:
        load_config(path, quantizer)
    assert str(error.value).startswith(str(path))
    assert words in str(error.value)
    assert quantizer._rules.empty


def test_the_good_file_is_good(tmp_path):
    (tmp_path / "rules.json").write_text(json.dumps(GOOD))
    loaded = load_config(tmp_path / "rules.json", XNNPACKQuantizer())
    assert loaded._rules.module_names == {"head": None}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rules.yaml", "", "end in .toml or .json"),
        ("rules.toml", "a = [", "is no TOML"),
        ("rules.json", "{", "is no JSON"),
        ("rules.json", "[]", "the file is []; expected a table"),
        ("rules.toml", None, "No such file"),
        ("rules.toml", b"\xff", "cannot read"),
    ],
)
def test_a_file_that_is_none(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError, match="rules") as error:
        load_config(path, XNNPACKQuantizer())
    assert words in str(error.value)


def test_what_has_no_form_in_a_file_is_not_written(tmp_path):
    path = tmp_path / "rules.json"
    config = get_symmetric_quantization_config()

    class Mine(MinMaxObserver):
        pass

    node = torch.fx.Graph().placeholder("x")
    derived = DerivedQuantizationSpec((node,), lambda _: None, torch.int32)
    spec = config.input_activation
    cases = [
        (XNNPACKQuantizer().set_filter_function(lambda _: True), "filter function"),
        (XNNPACKQuantizer().set_global(QuantizationConfig(spec, spec, spec, derived)), "DerivedQuantizationSpec"),
        (
            XNNPACKQuantizer().set_global(
                QuantizationConfig(type(spec)(torch.int8, Mine.with_args(eps=1.0)), None, None)
            ),
            "Mine",
        ),
        (
            XNNPACKQuantizer().set_global(
                QuantizationConfig(type(spec)(torch.int8, MinMaxObserver.with_args(eps=torch.ones(1))), None, None)
            ),
            "argument eps",
        ),
        (ByHand(lambda _: None), "ByHand"),
    ]
    for quantizer, words in cases:
        with pytest.raises(ConfigurationError, match=words):
            save_config(quantizer, path)
    assert not path.exists()
    with pytest.raises(ConfigurationError, match="cannot write"):
        save_config(XNNPACKQuantizer(), tmp_path / "no" / "rules.json")
    assert issubclass(ConfigurationError, QuantizerError)
