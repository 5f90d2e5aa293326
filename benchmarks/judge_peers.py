"""The peer that the conformance suite judges beside our own backends, as data: `judge_peers:PEER`.

ExecuTorch's own XNNPACKQuantizer runs unmodified on our engine, with its recipe for static int8, and its graphs run on
the kernels of our XNNPACK backend. So whatever differs in the verdicts is the quantizers' own.
"""

from __future__ import annotations

import functools
from typing import Any

from quantizer_sdk import Backend
from quantizer_sdk.backends.xnnpack import BACKEND
from quantizer_sdk.backends.xnnpack.runtime import importing

__all__ = ["PEER"]


def _quantizer(*, is_per_channel: bool = True) -> Any:
    """Return ExecuTorch's quantizer with its own configuration for all ops.

    Raises:
        MissingDependencyError: ExecuTorch is not installed.
    """
    with importing():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=is_per_channel))


PEER = Backend(
    name="executorch-xnnpack-quantizer",
    quantizer=_quantizer,
    runner=BACKEND.runner,
    profile=BACKEND.profile,
    configurations={"s8.pc": _quantizer, "s8.pt": functools.partial(_quantizer, is_per_channel=False)},
)
