"""Tools that raise the accuracy of a quantized model with no training; see docs/accuracy.md for when to use which."""

from quantizer_sdk.accuracy.adaround import NotRoundedWarning, adaround
from quantizer_sdk.accuracy.bias_correction import BiasNotCorrectedWarning, bias_correction
from quantizer_sdk.accuracy.equalization import NotEqualizedWarning, cross_layer_equalization
from quantizer_sdk.accuracy.observer_choice import with_observer
from quantizer_sdk.accuracy.recipe import Recipe
from quantizer_sdk.accuracy.smoothing import smooth_quant
from quantizer_sdk.accuracy.trial import Trial, TuneResult
from quantizer_sdk.accuracy.tuning import TOOLS, sqnr, tune
from quantizer_sdk.range_choice import OBSERVERS

__all__ = [
    "OBSERVERS",
    "TOOLS",
    "BiasNotCorrectedWarning",
    "NotEqualizedWarning",
    "NotRoundedWarning",
    "Recipe",
    "Trial",
    "TuneResult",
    "adaround",
    "bias_correction",
    "cross_layer_equalization",
    "smooth_quant",
    "sqnr",
    "tune",
    "with_observer",
]
