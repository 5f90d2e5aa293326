"""ExecuTorch's XNNPACK delegate: the quantizer that annotates for its int8 kernels, and the lowering that runs them."""

from quantizer_sdk.backends.xnnpack.backend import BACKEND
from quantizer_sdk.backends.xnnpack.configs import get_symmetric_quantization_config
from quantizer_sdk.backends.xnnpack.lowering import lower
from quantizer_sdk.backends.xnnpack.quantizer import XNNPACKQuantizer

__all__ = ["BACKEND", "XNNPACKQuantizer", "get_symmetric_quantization_config", "lower"]
