"""A model's schemes put into practice: by our quantizer, and by ExecuTorch's own on torchao's engine."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch.fx import GraphModule

from models.entry import Entry, Inputs, Scheme
from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config

__all__ = ["quantize_with_ours", "quantize_with_peer"]


def quantize_with_ours(entry: Entry, exported: GraphModule, batches: list[Inputs]) -> GraphModule:
    """Quantize an exported model by its entry's schemes."""
    quantizer = XNNPACKQuantizer()
    for kind, scheme in entry.schemes:
        config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=scheme is Scheme.DYNAMIC)
        _ = quantizer.set_global(config) if kind is None else quantizer.set_module_type(kind, config)
    prepared = prepare_pt2e(exported, quantizer)
    calibrate(prepared, batches)
    return convert_pt2e(prepared)


def quantize_with_peer(entry: Entry, exported: GraphModule, batches: list[Inputs]) -> GraphModule:
    """Quantize it by the same schemes as ExecuTorch's documentation does."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as peer
    from torchao.quantization.pt2e import quantize_pt2e as engine

    quantizer = peer.XNNPACKQuantizer()
    for kind, scheme in entry.schemes:
        config = peer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=scheme is Scheme.DYNAMIC)
        _ = quantizer.set_global(config) if kind is None else quantizer.set_module_type(kind, config)
    with torch.no_grad():
        prepared = engine.prepare_pt2e(copy.deepcopy(exported), quantizer)
        for batch in batches:
            prepared(*batch)
        return cast("GraphModule", engine.convert_pt2e(prepared))
