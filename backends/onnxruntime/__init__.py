"""ONNX Runtime on CPUs: the exporter that makes its integer kernels run, and the sessions that run them."""

from quantizer_sdk.backends.onnxruntime.emulator import lower_without_vnni
from quantizer_sdk.backends.onnxruntime.lowering import lower, lower_unoptimized
from quantizer_sdk.backends.onnxruntime.profile import PROFILE
from quantizer_sdk.backends.onnxruntime.runtime import ORTProgram
from quantizer_sdk.backends.onnxruntime.saturation import sums_saturate
from quantizer_sdk.backends.onnxruntime.session import SessionSettings

__all__ = [
    "PROFILE",
    "ORTProgram",
    "SessionSettings",
    "lower",
    "lower_unoptimized",
    "lower_without_vnni",
    "sums_saturate",
]
