"""ONNX Runtime on CPUs: the exporter that makes its integer kernels run, and the sessions that run them."""

from quantizer_sdk.backends.onnxruntime.emulator import lower_without_vnni
from quantizer_sdk.backends.onnxruntime.export import export_onnx, save_onnx
from quantizer_sdk.backends.onnxruntime.inspection import Inspection, inspect_onnx
from quantizer_sdk.backends.onnxruntime.lowering import lower, lower_unoptimized
from quantizer_sdk.backends.onnxruntime.profile import PROFILE
from quantizer_sdk.backends.onnxruntime.runtime import ORTProgram, load_onnx, run_onnx
from quantizer_sdk.backends.onnxruntime.saturation import sums_saturate
from quantizer_sdk.backends.onnxruntime.session import SessionSettings

__all__ = [
    "PROFILE",
    "Inspection",
    "ORTProgram",
    "SessionSettings",
    "export_onnx",
    "inspect_onnx",
    "load_onnx",
    "lower",
    "lower_unoptimized",
    "lower_without_vnni",
    "run_onnx",
    "save_onnx",
    "sums_saturate",
]
