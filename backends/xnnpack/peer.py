"""The peer to compare with: ExecuTorch's own XNNPACKQuantizer on torchao's PT2E engine."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import cast

import torch
from torch.fx import GraphModule

from quantizer_sdk.backends.executorch.importing import importing, quiet

__all__ = ["quantize_with_peer"]


def quantize_with_peer(exported: GraphModule, batches: Iterable[torch.Tensor]) -> GraphModule:
    """Quantize a model as ExecuTorch's own recipe does: static int8, weights per channel.

    Args:
        exported: A module of an exported program, with one input; it is left as it is.
        batches: What to calibrate on.

    Returns:
        The converted module, for the same `lower` as ours.

    Raises:
        MissingDependencyError: ExecuTorch, which brings torchao, is not installed.
    """
    with importing():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    with quiet(), torch.no_grad():
        prepared = prepare_pt2e(copy.deepcopy(exported), quantizer)
        for batch in batches:
            prepared(batch)
        return cast("GraphModule", convert_pt2e(prepared))
