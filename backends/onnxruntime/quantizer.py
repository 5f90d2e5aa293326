"""The quantizer for ONNX Runtime's CPU kernels."""

from __future__ import annotations

from quantizer_sdk import QuantizationConfig, TableQuantizer
from quantizer_sdk.backends.onnxruntime.configs import get_uint8_quantization_config
from quantizer_sdk.backends.onnxruntime.table import ROWS

__all__ = ["ONNXRuntimeQuantizer"]


class ONNXRuntimeQuantizer(TableQuantizer):
    """Quantizes what runs on ONNX Runtime's integer kernels on x86, and says of all else why it does not.

    Without any `set_` call it quantizes all it can, with a scale for each output channel of a weight. Set configs
    from `get_uint8_quantization_config` to choose otherwise.
    """

    rows = ROWS

    def default_config(self) -> QuantizationConfig:
        """Return static uint8 with weights per channel."""
        return get_uint8_quantization_config()
