"""Rules that are saved and loaded are the same rules."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizer_sdk import (
    FixedQParamsQuantizationSpec,
    ProductBiasSpec,
    QuantizationConfig,
    QuantizationSpec,
    load_config,
    save_config,
)
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.fake_quantize import FakeQuantize
from quantizer_sdk.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MSEObserver,
    PerBlock,
    PercentileObserver,
    PerGroup,
    PerRow,
    PerTensor,
    PerToken,
)

SUFFIXES = (".toml", ".json")
aten = torch.ops.aten

granularities = st.one_of(
    st.sampled_from([PerTensor(), PerToken(), PerRow(-1)]),
    st.builds(PerGroup, st.integers(1, 128)),
    st.builds(PerBlock, st.lists(st.integers(1, 8) | st.just(-1), min_size=1, max_size=4).map(tuple)),
)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "eps": st.floats(0, 1),
        "granularity": granularities,
        "scale_dtype": st.sampled_from([torch.bfloat16, torch.float32]),
        "power_of_two_scale": st.booleans(),
    },
)
observers = st.one_of(
    st.none(),
    st.sampled_from([MinMaxObserver, HistogramObserver]),
    st.builds(lambda kind, told: kind.with_args(**told), st.sampled_from([MinMaxObserver, MSEObserver]), arguments),
    st.builds(lambda percentile: PercentileObserver.with_args(percentile=percentile), st.floats(51, 100)),
    st.builds(lambda told: FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, **told), arguments),
    st.just(FakeQuantize.with_args(observer=FixedQParamsObserver.with_args(scale=0.5, zero_point=3))),
)
ranges = st.one_of(st.just((None, None)), st.tuples(st.integers(-128, -1), st.integers(0, 127)))
schemes = st.sampled_from(
    [None, torch.per_tensor_affine, torch.per_tensor_symmetric, torch.per_channel_symmetric, torch.per_channel_affine]
)


@st.composite
def specs(draw):
    low, high = draw(ranges)
    return QuantizationSpec(
        torch.int8,
        draw(observers),
        low,
        high,
        draw(schemes),
        draw(st.none() | st.integers(0, 3)),
        draw(st.booleans()),
    )


fixed_specs = st.builds(
    FixedQParamsQuantizationSpec,
    st.just(torch.uint8),
    st.floats(1e-6, 1e6),
    st.integers(0, 255),
    qscheme=st.sampled_from([None, torch.per_tensor_affine]),
)
biases = st.builds(ProductBiasSpec, st.sampled_from([torch.int32, torch.int16]), st.booleans())
configs = st.builds(
    QuantizationConfig,
    st.none() | specs() | fixed_specs,
    st.none() | specs() | fixed_specs,
    st.none() | specs(),
    st.none() | biases,
    st.booleans(),
)
rules = st.none() | configs
names = st.text(min_size=1, max_size=8)
paths = st.lists(st.sampled_from(["features", "0", "head", "conv"]), min_size=1, max_size=3).map(".".join)


def rules_of(quantizer):
    rules = quantizer._rules
    return rules.module_names, rules.module_types, rules.operator_types, rules.global_config


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(
    global_config=st.just(()) | st.tuples(rules),
    modules=st.dictionaries(paths | names, rules, max_size=3),
    kinds=st.dictionaries(names, rules, max_size=2),
    operators=st.dictionaries(
        st.sampled_from([aten.add.Tensor, aten.linear.default, aten.mul, aten.conv2d]), rules, max_size=3
    ),
)
@settings(max_examples=25, deadline=None)
def test_all_that_a_file_can_hold_comes_back(tmp_path_factory, suffix, global_config, modules, kinds, operators):
    quantizer = XNNPACKQuantizer()
    for config in global_config:
        quantizer.set_global(config)
    for name, config in modules.items():
        quantizer.set_module_name(name, config)
    for name, config in kinds.items():
        quantizer.set_module_type(name, config)
    for operator, config in operators.items():
        quantizer.set_operator_type(operator, config)
    path = tmp_path_factory.mktemp("rules") / f"rules{suffix}"
    save_config(quantizer, path)
    loaded = load_config(path, XNNPACKQuantizer())
    assert rules_of(loaded) == rules_of(quantizer)
    save_config(loaded, again := path.with_name(f"again{suffix}"))
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "config",
    [
        get_symmetric_quantization_config(),
        get_symmetric_quantization_config(is_per_channel=True, is_qat=True),
        get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True, bits=4, group_size=32),
        get_default_x86_quantization_config(),
        get_default_x86_quantization_config(is_dynamic=True, is_per_token=True),
        get_default_x86_quantization_config(is_weight_only=True, bits=4, group_size=32),
    ],
    ids=["s8.pt", "s8.pc, QAT", "d8.w4.g32", "u8.pc", "d8 by row", "w4.g32"],
)
def test_the_configs_of_backends(tmp_path, suffix, config):
    path = tmp_path / f"rules{suffix}"
    save_config(XNNPACKQuantizer().set_global(config), path)
    assert load_config(path, XNNPACKQuantizer())._rules.global_config == (config,)


def test_rules_by_function_are_kept_by_op(tmp_path):
    quantizer = X86Quantizer("onednn").set_function_type_qconfig(torch.matmul, get_default_x86_quantization_config())
    save_config(quantizer, tmp_path / "rules.toml")
    loaded = load_config(tmp_path / "rules.toml", X86Quantizer("onednn"))
    assert loaded._rules.operator_types == quantizer._rules.operator_types
    assert [row.name for row in loaded.rows] == [row.name for row in quantizer.rows]  # those that wait to be named too


def test_an_observer_of_your_own(tmp_path):
    class MyObserver(MinMaxObserver):
        pass

    config = get_symmetric_quantization_config()
    mine = dataclasses.replace(config.input_activation, observer_or_fake_quant_ctr=MyObserver.with_args(eps=1e-3))
    quantizer = XNNPACKQuantizer().set_global(dataclasses.replace(config, input_activation=mine))
    save_config(quantizer, tmp_path / "rules.toml", observers=[MyObserver])
    loaded = load_config(tmp_path / "rules.toml", XNNPACKQuantizer(), observers=[MyObserver])
    assert rules_of(loaded) == rules_of(quantizer)


def test_a_file_says_what_people_read(tmp_path):
    config = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = XNNPACKQuantizer().set_global(config).set_module_name("features.0", None)
    save_config(quantizer, tmp_path / "rules.json")
    content = json.loads((tmp_path / "rules.json").read_text())
    assert content["version"] == 1
    assert content["quantizer"] == "XNNPACKQuantizer"
    assert content["rules"] == {"global": "config_1", "modules": {"features.0": "float"}}
    assert content["configs"]["config_1"]["weight"] == {
        "dtype": "int8",
        "quant_min": -127,
        "quant_max": 127,
        "qscheme": "per_channel_symmetric",
        "ch_axis": 0,
        "observer": "PerChannelMinMaxObserver",
    }


def test_loaded_rules_go_over_those_that_are_there(tmp_path):
    save_config(XNNPACKQuantizer().set_module_name("a", None), tmp_path / "rules.toml")
    config = get_symmetric_quantization_config()
    loaded = load_config(tmp_path / "rules.toml", XNNPACKQuantizer().set_global(config).set_module_name("a", config))
    assert rules_of(loaded) == ({"a": None}, {}, {}, (config,))
