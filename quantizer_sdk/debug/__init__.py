"""The numeric debugger: a quantized model beside the float one, layer by layer."""

from quantizer_sdk.debug.comparison import Comparison, LayerError, OutputError
from quantizer_sdk.debug.debugger import compare
from quantizer_sdk.debug.spread import Spread

__all__ = ["Comparison", "LayerError", "OutputError", "Spread", "compare"]
