"""Tools that raise the accuracy of a quantized model with no training; see docs/accuracy.md for when to use which."""

from quantizer_sdk.accuracy.adaround import NotRoundedWarning, adaround
from quantizer_sdk.accuracy.bias_correction import BiasNotCorrectedWarning, bias_correction
from quantizer_sdk.accuracy.equalization import NotEqualizedWarning, cross_layer_equalization
from quantizer_sdk.accuracy.smoothing import smooth_quant

__all__ = [
    "BiasNotCorrectedWarning",
    "NotEqualizedWarning",
    "NotRoundedWarning",
    "adaround",
    "bias_correction",
    "cross_layer_equalization",
    "smooth_quant",
]
