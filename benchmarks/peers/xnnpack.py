"""ExecuTorch's own XNNPACKQuantizer, unmodified on our engine, with its recipe for static int8."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from peers.peer import Peer
from quantizer_sdk import Backend
from quantizer_sdk.backends.executorch.importing import importing
from quantizer_sdk.backends.xnnpack import BACKEND

__all__ = ["PEER", "XNNPACK"]


def _quantizer(*, is_per_channel: bool = True) -> Any:
    """Return ExecuTorch's quantizer with its own configuration for all ops.

    Raises:
        MissingDependencyError: ExecuTorch is not installed.
    """
    with importing():
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer_utils
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
    export = xnnpack_quantizer_utils._get_aten_graph_module_for_pattern
    if not isinstance(export, _Kept):
        xnnpack_quantizer_utils._get_aten_graph_module_for_pattern = _Kept(export)
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=is_per_channel))


class _Kept:
    """Exports a pattern of the peer's once: by itself it exports all twelve, 3 s, at every graph that it annotates."""

    def __init__(self, export: Callable[..., Any]) -> None:
        self._export = export
        self._patterns: dict[Any, Any] = {}

    def __call__(self, pattern: nn.Module, example_inputs: tuple[Any, ...], is_cuda: bool = False) -> Any:
        """Return a copy of the pattern's graph, for matching changes it."""
        function: Any = pattern.fn
        cells = tuple(cell.cell_contents for cell in function.__closure__)
        key = (function.__code__, cells, example_inputs[0].shape, is_cuda)
        if key not in self._patterns:
            self._patterns[key] = self._export(pattern, example_inputs, is_cuda)
        return copy.deepcopy(self._patterns[key])


PEER = Backend(
    name="executorch-xnnpack-quantizer",
    quantizer=_quantizer,
    runner=BACKEND.runner,
    profile=BACKEND.profile,
    configurations={"s8.pc": _quantizer, "s8.pt": functools.partial(_quantizer, is_per_channel=False)},
)

XNNPACK = Peer(
    backend=PEER,
    where="peers.xnnpack:PEER",
    page="peers",
    title="ExecuTorch's quantizer for XNNPACK, judged",
    introduction=(
        "ExecuTorch's own `XNNPACKQuantizer`, per channel and per tensor, runs unmodified on our engine, its graphs on",
        "the kernels that ours run on.",
    ),
    packages=("torch", "executorch"),
)
