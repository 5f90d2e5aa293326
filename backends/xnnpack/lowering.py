"""From an exported module to a program for ExecuTorch's runtime, with all that XNNPACK takes delegated to it."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import (
    RatioLimit,
    boundary_of,
    copy_without_guards,
    detach_run_time_weights,
    excessive_requantization,
    give_each_call_its_weight,
    quantize_padding,
    requantizing_clamps,
    spell_out_arguments,
    strip_boundary,
    write_out_addmm,
)
from quantizer_sdk.backends.executorch.delegation import delegation_of
from quantizer_sdk.backends.executorch.importing import importing, quiet
from quantizer_sdk.backends.executorch.program import ExecuTorchProgram
from quantizer_sdk.backends.xnnpack.payload import decode_kernels
from quantizer_sdk.backends.xnnpack.run_time_qparams import ask_for_run_time_qparams, partition_alone
from quantizer_sdk.backends.xnnpack.table import CLAMP, MAX_POOL, RELU, RELU6
from quantizer_sdk.errors import LoweringError

__all__ = ["lower"]

_ATEN = torch.ops.aten
# ExecuTorch rewrites the weight of a 1-d convolution in place, and fails at a second call of it.
_REWRITTEN_IN_PLACE = frozenset({_ATEN.conv1d.default, _ATEN.conv1d.padding, _ATEN.conv_transpose1d.default})
_GEMM = RatioLimit(limit=256.0, multiplies=True)  # from there on, loading fails
_SUM = RatioLimit(limit=2.0**20, multiplies=False)  # from there on, and for products, results are silently wrong
_LIMITS = {
    **dict.fromkeys(
        (*_REWRITTEN_IN_PLACE, _ATEN.conv2d.default, _ATEN.conv2d.padding, _ATEN.conv_transpose2d.input), _GEMM
    ),
    **dict.fromkeys((_ATEN.linear.default, _ATEN.addmm.default, _ATEN.mm.default), _GEMM),
    **dict.fromkeys((_ATEN.add.Tensor, _ATEN.add_.Tensor, _ATEN.sub.Tensor, _ATEN.sub_.Tensor), _SUM),
    **dict.fromkeys((_ATEN.mul.Tensor, _ATEN.mul_.Tensor), RatioLimit(limit=2.0**15, multiplies=True)),
}
_READ_BY_POSITION = {
    **dict.fromkeys((_ATEN.hardtanh.default, _ATEN.hardtanh_.default), ("min_val", "max_val")),
    **dict.fromkeys((_ATEN.elu.default, _ATEN.elu_.default), ("alpha",)),
}
_CLAMPS = RELU.targets | RELU6.targets | CLAMP.targets
_POOLS = MAX_POOL.targets


def lower(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    quantize_io: bool = False,
) -> ExecuTorchProgram:
    """Lower a float or a converted model to a program that runs on XNNPACK's kernels.

    Args:
        model: A module of an exported program, float or converted to `quantized_decomposed` operators. It takes one
            tensor per input. It is left as it is; its weights are not copied.
        example_inputs: CPU tensors in the model's own shapes and dtypes. The program takes contiguous tensors,
            whatever memory format these have.
        dynamic_shapes: As `torch.export.export` takes it, such as `({0: Dim("batch", min=1, max=8)},)`; memory is
            planned for the upper bound, so give one: without it ExecuTorch plans for about the example's size and
            the program refuses larger inputs. The example's size in such a dimension must be 2 or more. None keeps
            all shapes as they are.
        integer_io: Whether inputs and outputs are the raw int8 tensors, where they are quantized: see
            `strip_boundary`. The suite's name, under which it asks every backend for it.
        quantize_io: The same for applications, which save the conversions and a float copy at the boundary: the
            program's `input_qparams` and `output_qparams` say what the codes stand for, and None where a tensor stays
            float, because the model reads it as float too, quantizes it in two ways, or does not quantize it. A model
            without any quantized input and output is refused.

    Returns:
        The program, not yet loaded: what only XNNPACK itself refuses, its first `run` reports.

    Raises:
        LoweringError: torch.export or ExecuTorch's compiler refuses the model, kernels cannot compute it with its
            scales, or `quantize_io` finds nothing to do.
        MissingDependencyError: ExecuTorch is not installed.
    """
    with importing():
        from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
        from executorch.backends.xnnpack.partition.config.generic_node_configs import EluConfig
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

    inputs = tuple(tensor.detach().contiguous() for tensor in example_inputs)
    with quiet():
        partitioner = XnnpackPartitioner(configs=[*ALL_PARTITIONER_CONFIGS, EluConfig])  # there, but not switched on
        boundary = boundary_of(model)
        if quantize_io and not boundary.quantized:
            message = "quantize_io=True, but the model quantizes none of its inputs and outputs; lower it without"
            raise LoweringError(message)
        if integer_io or quantize_io:
            clone, inputs = strip_boundary(model, inputs)
        else:
            clone, boundary = copy_without_guards(model), boundary.as_float()
        refused = [*excessive_requantization(clone, _LIMITS), *requantizing_clamps(clone, _CLAMPS, _POOLS)]
        if refused:
            raise LoweringError(f"XNNPACK's kernels cannot compute this model: {'; '.join(refused)}")
        spell_out_arguments(clone, _READ_BY_POSITION)
        quantize_padding(clone)
        write_out_addmm(clone)
        detach_run_time_weights(clone)
        give_each_call_its_weight(clone, _REWRITTEN_IN_PLACE)
        partitioners = [partition_alone(partitioner), partitioner] if ask_for_run_time_qparams(clone) else [partitioner]
        with _stage("exporting it with torch.export"):
            exported = torch.export.export(clone, inputs, dynamic_shapes=dynamic_shapes, strict=False)
        with _stage("delegating it to XNNPACK"):
            edge = to_edge_transform_and_lower(exported, partitioner=partitioners)
        delegation = delegation_of(edge.exported_program().graph_module)
        with _stage("compiling it to an ExecuTorch program"):
            buffer = bytes(edge.to_executorch().buffer)
    return ExecuTorchProgram(buffer, delegation, decode_kernels, boundary)


@contextlib.contextmanager
def _stage(action: str) -> Iterator[None]:
    """Turn whatever the compiler raises inside the block into a LoweringError that says at what."""
    try:
        yield
    except Exception as e:
        reason = textwrap.shorten(str(e), 400, placeholder=" ...") or "no message"
        raise LoweringError(f"cannot lower the model: {action} failed with {type(e).__name__}: {reason}") from e
