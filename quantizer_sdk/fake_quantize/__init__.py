"""Fake quantizers: modules that round a tensor to codes and back while a model trains."""

from quantizer_sdk.fake_quantize.base import (
    FakeQuantizeBase,
    disable_fake_quant,
    disable_observer,
    enable_fake_quant,
    enable_observer,
)
from quantizer_sdk.fake_quantize.defaults import default_dynamic_fake_quant, default_fake_quant
from quantizer_sdk.fake_quantize.fake_quantize import FakeQuantize, FixedQParamsFakeQuantize
from quantizer_sdk.fake_quantize.fused import FusedMovingAvgObsFakeQuantize
from quantizer_sdk.fake_quantize.learnable import LearnableFakeQuantize
from quantizer_sdk.fake_quantize.schedule import QATSchedule
from quantizer_sdk.passes.training_mode import freeze_bn_stats, update_bn_stats

__all__ = [
    "FakeQuantize",
    "FakeQuantizeBase",
    "FixedQParamsFakeQuantize",
    "FusedMovingAvgObsFakeQuantize",
    "LearnableFakeQuantize",
    "QATSchedule",
    "default_dynamic_fake_quant",
    "default_fake_quant",
    "disable_fake_quant",
    "disable_observer",
    "enable_fake_quant",
    "enable_observer",
    "freeze_bn_stats",
    "update_bn_stats",
]
