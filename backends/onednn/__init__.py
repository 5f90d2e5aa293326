"""oneDNN's integer kernels called from eager torch: a converted model becomes a module that runs at once."""

from quantizer_sdk.backends.onednn.limited import lower_without_vnni
from quantizer_sdk.backends.onednn.lowering import lower_eager
from quantizer_sdk.backends.onednn.profile import PROFILE
from quantizer_sdk.backends.onednn.program import OneDNNProgram, load
from quantizer_sdk.backends.onednn.saturation import sums_saturate

__all__ = ["PROFILE", "OneDNNProgram", "load", "lower_eager", "lower_without_vnni", "sums_saturate"]
