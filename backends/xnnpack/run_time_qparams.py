"""Qparams of each run's data, in the one form that ExecuTorch's partitioner knows: a scale for the tensor.

The delegate takes that form for a request to let XNNPACK quantize, and XNNPACK has a scale for each sample, or before a
pointwise convolution for each pixel. The converted model says so with ops of our own; here they get the field's name.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.backends.executorch.importing import importing

__all__ = ["ask_for_run_time_qparams", "partition_alone"]

_OURS = torch.ops.quantizer_sdk
_FIELD = torch.ops.quantized_decomposed
_CHOOSE = _OURS.choose_qparams_per_block.default
_FORMS = {
    _CHOOSE: _FIELD.choose_qparams.tensor,
    _OURS.quantize_per_block.default: _FIELD.quantize_per_tensor.tensor,
    _OURS.dequantize_per_block.default: _FIELD.dequantize_per_tensor.tensor,
}


def ask_for_run_time_qparams(model: GraphModule) -> bool:
    """Write qparams chosen by block at run time, and what uses them, as qparams chosen for the tensor.

    Returns:
        Whether the model has such qparams now.
    """
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
    return any(node.target is _FORMS[_CHOOSE] for node in model.graph.nodes)


def _is_chosen(scale: object) -> bool:
    """Whether a scale comes from an op that chooses it, under either name."""
    return (
        isinstance(scale, Node)
        and scale.target is operator.getitem
        and scale.all_input_nodes[0].target in {_CHOOSE, _FORMS[_CHOOSE]}
    )


def partition_alone(rest: Any) -> Any:
    """Return a partitioner before `rest` that gives each convolution quantized at run time a delegate of its own.

    In a delegate with other ops, ExecuTorch 1.5.1 moves the change to channels-last before the first op that leads to
    the convolution, for all that read it: reshapes fail to compile, slices to run, and sums are silently wrong.
    """
    with importing():
        from executorch.backends.xnnpack.partition.config.gemm_configs import ConvolutionConfig
        from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    class RunTimeConvolutions(ConvolutionConfig):  # type: ignore[misc]  # ExecuTorch ships no annotations
        """Convolutions whose operand is quantized at run time, with the activation that their kernel clamps to."""

        def supported_precision_types(self) -> list[Any]:
            return [ConfigPrecisionType.DYNAMIC_QUANT]

        def _get_output_deps(self, node: Node, ep: Any, precision: Any) -> Any:
            del precision
            return super()._get_output_deps(node, ep, ConfigPrecisionType.FP32)

    partitioner = XnnpackPartitioner(configs=[RunTimeConvolutions], per_op_mode=True)
    partitioner.ops_to_not_decompose = rest.ops_to_not_decompose  # what is decomposed here reaches `rest` in pieces
    return partitioner
