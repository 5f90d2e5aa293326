"""What the SDK's tools find under the entry point `x86`: one part for each runtime."""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from quantizer_sdk import Backend, QuantizationConfig
from quantizer_sdk.backend import FileFormat, Runner, Variant
from quantizer_sdk.backends import inductor, onednn, onnxruntime
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


def _schemes(target: Target, *, by_row: bool = False) -> Mapping[str, Callable[[], X86Quantizer]]:
    """Return the configurations of a part: static per channel and per tensor, and with qparams of each row's own."""
    found: dict[str, dict[str, bool]] = {"u8.pc": {}, "u8.pt": {"is_per_channel": False}}
    if by_row:
        found["d8.pc"] = {"is_dynamic": True, "is_per_token": True}
    return {f"{name}@{target.value}": _judged(target, **arguments) for name, arguments in found.items()}


def _sums(saturate: Callable[[], bool]) -> str:
    return "saturates" if saturate() else "exact"


def _onednn_environment() -> Mapping[str, str]:
    return {"oneDNN, uint8 times int8": _sums(onednn.sums_saturate)}


def _onnxruntime_environment() -> Mapping[str, str]:
    return {
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "onnx-ir": importlib.metadata.version("onnx-ir"),
        "ONNX Runtime, uint8 times int8": _sums(onnxruntime.sums_saturate),
        "valgrind": shutil.which("valgrind") or "not installed",
    }


_ONEDNN = Backend(
    name="onednn",
    quantizer=_judged(Target.ONEDNN),
    runner=Runner(
        name="oneDNN from eager torch",
        lower=onednn.lower_eager,
        variants=(Variant(name="AVX2", axis="isa", lower=onednn.lower_without_vnni, batched=True),),
        environment=_onednn_environment,
    ),
    profile=onednn.PROFILE,
    configurations=_schemes(Target.ONEDNN, by_row=True),
)
_INDUCTOR = Backend(
    name="inductor",
    quantizer=_judged(Target.INDUCTOR),
    runner=Runner(
        name="oneDNN in inductor's code",
        lower=inductor.lower_inductor,
        variants=(
            Variant(name="patterns off", axis="optimizer", lower=inductor.lower_unoptimized),
            Variant(name="AVX2", axis="isa", lower=inductor.lower_without_vnni, batched=True),
        ),
        compiles=True,
    ),
    profile=inductor.PROFILE,
    configurations=_schemes(Target.INDUCTOR),
)
_ONNXRUNTIME = Backend(
    name="onnxruntime",
    quantizer=_judged(Target.ONNXRUNTIME),
    runner=Runner(
        name="ONNX Runtime CPU",
        lower=onnxruntime.lower,
        variants=(
            Variant(name="optimizations off", axis="optimizer", lower=onnxruntime.lower_unoptimized),
            Variant(name="no VNNI", axis="isa", lower=onnxruntime.lower_without_vnni, batched=True),
        ),
        environment=_onnxruntime_environment,
    ),
    profile=onnxruntime.PROFILE,
    configurations=_schemes(Target.ONNXRUNTIME),
    inspectors={".onnx": onnxruntime.inspect_onnx},
    formats={
        ".onnx": FileFormat(
            runtime="ONNX Runtime on x86",
            quantizer=functools.partial(_quantizer, Target.ONNXRUNTIME),
            save=onnxruntime.save_onnx,
        )
    },
)

BACKEND = Backend(name="x86", quantizer=_quantizer, parts=(_ONEDNN, _INDUCTOR, _ONNXRUNTIME))
