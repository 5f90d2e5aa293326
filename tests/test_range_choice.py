"""Another observer keeps what holds for whatever chooses the range."""

import torch

from quantizer_sdk import QuantizationConfig, QuantizationSpec
from quantizer_sdk.alternatives import alternative_configs
from quantizer_sdk.observers import HistogramObserver
from quantizer_sdk.range_choice import OBSERVERS, observer_of, with_range_by

SPEC = QuantizationSpec(torch.int8, HistogramObserver.with_args(power_of_two_scale=True, eps=0.5, bins=128))


def test_what_all_observers_take_is_kept_and_what_one_takes_is_not():
    changed = with_range_by(SPEC, OBSERVERS["percentile 99.9"])
    assert observer_of(changed) is OBSERVERS["percentile 99.9"].constructor
    assert changed.observer_or_fake_quant_ctr.arguments == {"percentile": 99.9, "power_of_two_scale": True, "eps": 0.5}


def test_alternatives_keep_scales_that_are_powers_of_two():
    found = alternative_configs(QuantizationConfig(SPEC, SPEC, SPEC, None))
    ranges = {name: config for name, config in found.items() if "range" in name}
    assert len(ranges) == 3
    for config in ranges.values():
        assert config.output_activation.observer_or_fake_quant_ctr.arguments["power_of_two_scale"]
