"""What a report says of the machine: versions, processor, instruction sets."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import torch

from quantizer_sdk import Backend

__all__ = ["environment_of"]

_FLAGS = ("avx2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


def environment_of(backend: Backend) -> dict[str, str]:
    """Return versions, the processor's integer instructions, and what the runner says of itself.

    "isa" is the widest set that the processor offers to 8-bit kernels, unless the runner says which it uses.
    """
    flags = _cpu_flags()
    found = {
        "quantizer_sdk": importlib.metadata.version("quantizer-sdk"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "isa": _isa(flags),
    }
    for part in backend.runtimes():
        if part.runner is not None and part.runner.environment is not None:
            found |= part.runner.environment()
    return found


def _isa(flags: frozenset[str]) -> str:
    wide = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "i8mm", "asimddp", "asimd")
    return next((flag for flag in wide if flag in flags), platform.machine())


def _cpu_flags() -> frozenset[str]:
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _cpu_name() -> str:
    names = (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
