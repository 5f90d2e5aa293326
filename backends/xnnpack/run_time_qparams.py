"""Qparams of each run's data, in the one form that ExecuTorch's partitioner knows: a scale for the tensor.

The delegate takes that form for a request to let XNNPACK quantize, and XNNPACK has a scale for each sample, or before a
pointwise convolution for each pixel. The converted model says so with ops of our own; here they get the field's name.
"""

from __future__ import annotations

import operator

import torch
from torch.fx import GraphModule, Node

__all__ = ["ask_for_run_time_qparams"]

_OURS = torch.ops.quantizer_sdk
_FIELD = torch.ops.quantized_decomposed
_CHOOSE = _OURS.choose_qparams_per_block.default
_FORMS = {
    _CHOOSE: _FIELD.choose_qparams.tensor,
    _OURS.quantize_per_block.default: _FIELD.quantize_per_tensor.tensor,
    _OURS.dequantize_per_block.default: _FIELD.dequantize_per_tensor.tensor,
}


def ask_for_run_time_qparams(model: GraphModule) -> None:
    """Write qparams chosen by block at run time, and what uses them, as qparams chosen for the tensor."""
    for node in list(model.graph.nodes):
        if node.target not in _FORMS or (node.target is not _CHOOSE and not _is_chosen(node.args[2])):
            continue
        with model.graph.inserting_before(node):
            tensor, _block_size, *rest = node.args
            form = model.graph.call_function(_FORMS[node.target], (tensor, *rest))
        form.meta.update(node.meta)
        node.replace_all_uses_with(form)
        model.graph.erase_node(node)
    model.recompile()


def _is_chosen(scale: object) -> bool:
    """Whether a scale comes from an op that chooses it, under either name."""
    return (
        isinstance(scale, Node)
        and scale.target is operator.getitem
        and scale.all_input_nodes[0].target in {_CHOOSE, _FORMS[_CHOOSE]}
    )
