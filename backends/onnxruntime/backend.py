"""What the SDK's tools find under the entry point `onnxruntime`."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping

from quantizer_sdk import Backend, QuantizationConfig
from quantizer_sdk.backend import Runner, Variant
from quantizer_sdk.backends.onnxruntime.configs import get_uint8_quantization_config
from quantizer_sdk.backends.onnxruntime.emulated_process import VALGRIND
from quantizer_sdk.backends.onnxruntime.emulator import lower_without_vnni
from quantizer_sdk.backends.onnxruntime.lowering import lower, lower_unoptimized
from quantizer_sdk.backends.onnxruntime.profile import PROFILE
from quantizer_sdk.backends.onnxruntime.quantizer import ONNXRuntimeQuantizer
from quantizer_sdk.backends.onnxruntime.saturation import sums_saturate

__all__ = ["BACKEND"]


def _quantizer(*, config: QuantizationConfig | None = None) -> ONNXRuntimeQuantizer:
    """Return a quantizer with `config` for all ops, or with its default."""
    quantizer = ONNXRuntimeQuantizer()
    return quantizer if config is None else quantizer.set_global(config)


def _per_tensor() -> ONNXRuntimeQuantizer:
    return _quantizer(config=get_uint8_quantization_config(is_per_channel=False))


def _environment() -> Mapping[str, str]:
    return {
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "onnx-ir": importlib.metadata.version("onnx-ir"),
        "uint8 times int8": "saturates" if sums_saturate() else "exact",
        "valgrind": shutil.which(VALGRIND) or "not installed",
    }


BACKEND = Backend(
    name="onnxruntime",
    quantizer=_quantizer,
    runner=Runner(
        name="ONNX Runtime CPU",
        lower=lower,
        variants=(
            Variant(name="optimizations off", axis="optimizer", lower=lower_unoptimized),
            Variant(name="no VNNI", axis="isa", lower=lower_without_vnni, batched=True),
        ),
        environment=_environment,
    ),
    profile=PROFILE,
    configurations={"u8.pc": _quantizer, "u8.pt": _per_tensor},
)
