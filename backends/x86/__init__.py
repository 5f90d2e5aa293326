"""x86: one quantizer for oneDNN called eagerly, for inductor's compiled code, and for ONNX Runtime."""

from quantizer_sdk.backends.onnxruntime import export_onnx, run_onnx
from quantizer_sdk.backends.x86.backend import BACKEND
from quantizer_sdk.backends.x86.configs import get_default_x86_quantization_config
from quantizer_sdk.backends.x86.lowering import lower
from quantizer_sdk.backends.x86.quantizer import X86Quantizer
from quantizer_sdk.backends.x86.target import Target

get_default_x86_inductor_quantization_config = get_default_x86_quantization_config
X86InductorQuantizer = X86Quantizer

__all__ = [
    "BACKEND",
    "Target",
    "X86InductorQuantizer",
    "X86Quantizer",
    "export_onnx",
    "get_default_x86_inductor_quantization_config",
    "get_default_x86_quantization_config",
    "lower",
    "run_onnx",
]
