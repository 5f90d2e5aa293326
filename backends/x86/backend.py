"""What the SDK's tools find under the entry point `x86`: one part for each runtime."""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from quantizer_sdk import Backend, QuantizationConfig
from quantizer_sdk.backend import Runner, Variant
from quantizer_sdk.backends.onnxruntime.emulated_process import VALGRIND
from quantizer_sdk.backends.onnxruntime.emulator import lower_without_vnni
from quantizer_sdk.backends.onnxruntime.lowering import lower, lower_unoptimized
from quantizer_sdk.backends.onnxruntime.profile import PROFILE
from quantizer_sdk.backends.onnxruntime.saturation import sums_saturate
from quantizer_sdk.backends.x86.configs import get_default_x86_quantization_config
from quantizer_sdk.backends.x86.quantizer import X86Quantizer
from quantizer_sdk.backends.x86.target import Target

__all__ = ["BACKEND"]


def _quantizer(
    target: Target = Target.ONEDNN, *, quantize_results: bool = False, config: QuantizationConfig | None = None
) -> X86Quantizer:
    """Return a quantizer with `config` for all ops, or with its default."""
    quantizer = X86Quantizer(target, quantize_results=quantize_results)
    return quantizer if config is None else quantizer.set_global(config)


def _judged(target: Target, **arguments: Any) -> Callable[[], X86Quantizer]:
    """Return what makes a quantizer for the suite, which looks at results as codes.

    Weights have 8 bits whatever this machine is: the suite then shows where a processor sums with loss.
    """
    config = functools.partial(get_default_x86_quantization_config, reduce_range=False, **arguments)
    return lambda: _quantizer(target, quantize_results=True, config=config())


def _ort_environment() -> Mapping[str, str]:
    return {
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "onnx-ir": importlib.metadata.version("onnx-ir"),
        "ONNX Runtime, uint8 times int8": "saturates" if sums_saturate() else "exact",
        "valgrind": shutil.which(VALGRIND) or "not installed",
    }


_ONNXRUNTIME = Backend(
    name="onnxruntime",
    quantizer=_judged(Target.ONNXRUNTIME),
    runner=Runner(
        name="ONNX Runtime CPU",
        lower=lower,
        variants=(
            Variant(name="optimizations off", axis="optimizer", lower=lower_unoptimized),
            Variant(name="no VNNI", axis="isa", lower=lower_without_vnni, batched=True),
        ),
        environment=_ort_environment,
    ),
    profile=PROFILE,
    configurations={
        "u8.pc@onnxruntime": _judged(Target.ONNXRUNTIME),
        "u8.pt@onnxruntime": _judged(Target.ONNXRUNTIME, is_per_channel=False),
    },
)

BACKEND = Backend(name="x86", quantizer=_quantizer, parts=(_ONNXRUNTIME,))
