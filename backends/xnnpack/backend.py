"""What the SDK's tools find under the entry point `xnnpack`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk import Executable, QuantizationConfig
from quantizer_sdk.backends.xnnpack.lowering import lower
from quantizer_sdk.backends.xnnpack.peer import quantize_with_peer
from quantizer_sdk.backends.xnnpack.quantizer import XNNPACKQuantizer

__all__ = ["BACKEND", "XNNPACKBackend"]


class XNNPACKBackend:
    """ExecuTorch's XNNPACK delegate, as `quantizer_sdk.Backend`."""

    name = "xnnpack"

    def quantizer(self, *, config: QuantizationConfig | None = None) -> XNNPACKQuantizer:
        """Return a quantizer with `config` for all ops, or with its default."""
        quantizer = XNNPACKQuantizer()
        return quantizer if config is None else quantizer.set_global(config)

    def lower(
        self,
        model: GraphModule,
        example_inputs: Sequence[torch.Tensor],
        *,
        dynamic_shapes: Any = None,
        integer_io: bool = False,
    ) -> Executable:
        """Lower to an ExecuTorch program; see `quantizer_sdk.backends.xnnpack.lower`."""
        return lower(model, example_inputs, dynamic_shapes=dynamic_shapes, integer_io=integer_io)

    def peer_quantize(self, exported: GraphModule, batches: Iterable[torch.Tensor]) -> GraphModule:
        """Quantize with ExecuTorch's own XNNPACKQuantizer on torchao's engine, to compare with."""
        return quantize_with_peer(exported, batches)


BACKEND = XNNPACKBackend()
