"""What the SDK's tools find under the entry point `xnnpack`."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from quantizer_sdk import Backend, QuantizationConfig
from quantizer_sdk.backend import FileFormat, Runner
from quantizer_sdk.backends.executorch import public_run
from quantizer_sdk.backends.executorch.peer import quantize_with_peer
from quantizer_sdk.backends.xnnpack.configs import get_symmetric_quantization_config
from quantizer_sdk.backends.xnnpack.files import inspect_pte, save_pte
from quantizer_sdk.backends.xnnpack.lowering import lower
from quantizer_sdk.backends.xnnpack.profile import PROFILE
from quantizer_sdk.backends.xnnpack.quantizer import XNNPACKQuantizer

__all__ = ["BACKEND"]


def _quantizer(*, config: QuantizationConfig | None = None) -> XNNPACKQuantizer:
    """Return a quantizer with `config` for all ops, or with its default."""
    quantizer = XNNPACKQuantizer()
    return quantizer if config is None else quantizer.set_global(config)


def _configured(**arguments: Any) -> Callable[[], XNNPACKQuantizer]:
    return lambda: _quantizer(config=get_symmetric_quantization_config(**arguments))


def _environment() -> Mapping[str, str]:
    return {"executorch": importlib.metadata.version("executorch")}


BACKEND = Backend(
    name="xnnpack",
    quantizer=_quantizer,
    runner=Runner(
        name="ExecuTorch XNNPACK", lower=lower, environment=_environment, script=inspect.getsource(public_run)
    ),
    profile=PROFILE,
    peer_quantize=quantize_with_peer,
    inspectors={".pte": inspect_pte},
    formats={".pte": FileFormat(runtime="ExecuTorch with XNNPACK", quantizer=_quantizer, save=save_pte)},
    configurations={
        "s8.pc": _quantizer,
        "s8.pt": _configured(is_per_channel=False),
        "s8.w4.pc": _configured(is_per_channel=True, bits=4),
        "d8.pc": _configured(is_per_channel=True, is_dynamic=True),
        "d8.w4.pc": _configured(is_per_channel=True, is_dynamic=True, bits=4),
        "d8.w4.g32": _configured(is_per_channel=True, is_dynamic=True, bits=4, group_size=32),
    },
)
