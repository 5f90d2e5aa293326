"""oneDNN's integer kernels called from eager torch: a converted model becomes a module that runs at once."""

from quantizer_sdk.backends.onednn.lowering import lower_eager
from quantizer_sdk.backends.onednn.program import OneDNNProgram, load

__all__ = ["OneDNNProgram", "load", "lower_eager"]
