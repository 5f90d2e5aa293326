"""ONNX Runtime on CPUs: the quantizer that annotates for its uint8 kernels, and the exporter that makes them run."""

from quantizer_sdk.backends.onnxruntime.backend import BACKEND
from quantizer_sdk.backends.onnxruntime.configs import get_uint8_quantization_config
from quantizer_sdk.backends.onnxruntime.emulator import lower_without_vnni
from quantizer_sdk.backends.onnxruntime.lowering import lower
from quantizer_sdk.backends.onnxruntime.quantizer import ONNXRuntimeQuantizer
from quantizer_sdk.backends.onnxruntime.session import SessionSettings

__all__ = [
    "BACKEND",
    "ONNXRuntimeQuantizer",
    "SessionSettings",
    "get_uint8_quantization_config",
    "lower",
    "lower_without_vnni",
]
