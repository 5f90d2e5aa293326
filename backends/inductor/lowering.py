"""From a converted module to a program that inductor compiled, with its integer kernels counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import Boundary, boundary_of, copy_without_guards, quiet_logs, strip_boundary
from quantizer_sdk.backends.inductor.compiling import Compiled, compile_graph, flatten_outputs, reporting
from quantizer_sdk.backends.inductor.gemms import Gemm
from quantizer_sdk.backends.inductor.kernels import count_integer_products, decode_kernels
from quantizer_sdk.backends.inductor.normal_form import to_normal_form
from quantizer_sdk.backends.inductor.program import NOT_MATCHED, InductorProgram
from quantizer_sdk.errors import LoweringError

__all__ = ["lower_inductor", "lower_unoptimized"]


def lower_inductor(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    min_fused: int | None = None,
    autocast: torch.dtype | None = None,
) -> InductorProgram:
    """Compile a float or a converted model with inductor, in this process, and see to it that its kernels are integer.

    Inductor's configuration is changed for the time of the call only. The first call in a process takes seconds more.

    Args:
        model: A module of an exported program, float or converted to `quantized_decomposed` operators, by any engine.
            It is left as it is.
        example_inputs: CPU tensors in the model's own shapes and dtypes, one an input.
        dynamic_shapes: As `torch.export.export` takes it, such as `({0: Dim("batch", max=8)},)`; the example's size in
            such a dimension must be 2 or more. None keeps all shapes as they are.
        integer_io: Whether inputs and outputs are the raw integers: see `strip_boundary`.
        min_fused: How many convolutions and linears must run as integer kernels, by the generated code. None asks for
            all that have quantized operands of a kind that inductor knows; `InductorProgram.floats` names the others.
        autocast: `torch.bfloat16` for int8-bf16 mixed models: what is left in float computes in that type.

    Returns:
        The program.

    Raises:
        LoweringError: Inductor cannot compile the model, or fewer products than `min_fused` became integer kernels;
            names the others with the user's lines and the reasons.
    """
    inputs = tuple(tensor.detach().contiguous() for tensor in example_inputs)
    clone, inputs, boundary = _copied(model, inputs, integer_io=integer_io)
    gemms = to_normal_form(clone)
    flatten_outputs(clone)

    def compiled_for(arguments: Sequence[torch.Tensor]) -> Compiled:
        return _compiled(clone, arguments, dynamic_shapes, autocast=autocast)

    compiled = compiled_for(inputs)
    _check(compiled, gemms, min_fused)
    return InductorProgram(
        compiled,
        compiled_for,
        clone,
        inputs,
        dynamic_shapes=dynamic_shapes,
        boundary=boundary,
        gemms=gemms,
        autocast=autocast,
    )


def lower_unoptimized(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
) -> InductorProgram:
    """Compile without a pattern: the same code generator, in float between quantize and dequantize.

    Arguments and errors as for `lower_inductor`; nothing is fused, and nothing is asked to be.
    """
    inputs = tuple(tensor.detach().contiguous() for tensor in example_inputs)
    clone, inputs, boundary = _copied(model, inputs, integer_io=integer_io)
    flatten_outputs(clone)

    def compiled_for(arguments: Sequence[torch.Tensor]) -> Compiled:
        return _compiled(clone, arguments, dynamic_shapes, optimize=False)

    return InductorProgram(
        compiled_for(inputs),
        compiled_for,
        clone,
        inputs,
        dynamic_shapes=dynamic_shapes,
        boundary=boundary,
        gemms=(),
        autocast=None,
    )


def _copied(
    model: GraphModule, inputs: tuple[torch.Tensor, ...], *, integer_io: bool
) -> tuple[GraphModule, tuple[torch.Tensor, ...], Boundary]:
    boundary = boundary_of(model)
    if integer_io:
        clone, inputs = strip_boundary(model, inputs)
        return clone, inputs, boundary
    return copy_without_guards(model), inputs, boundary.as_float()


def _compiled(model: GraphModule, inputs: Sequence[torch.Tensor], dynamic_shapes: Any, **options: Any) -> Compiled:
    """Compile a copy, for the compiler changes what it is given, and this one is needed again."""
    if dynamic_shapes is None:
        return compile_graph(copy_without_guards(model), inputs, **options)
    with reporting("export the model"), quiet_logs("torch.export"):
        exported = torch.export.export(model, tuple(inputs), dynamic_shapes=dynamic_shapes)
        opened = exported.module(check_guards=False)
    assert isinstance(opened, GraphModule)
    flatten_outputs(opened)
    return compile_graph(opened, [node.meta["val"] for node in opened.graph.find_nodes(op="placeholder")], **options)


def _check(compiled: Compiled, gemms: tuple[Gemm, ...], min_fused: int | None) -> None:
    """Compare the integer kernels in the generated code with what is asked for."""
    possible = [gemm for gemm in gemms if gemm.obstacle is None]
    floor = len(possible) if min_fused is None else min_fused
    found = count_integer_products(decode_kernels(compiled.findings.source))
    if found >= floor:
        return
    left = [gemm for gemm in gemms if gemm.name not in compiled.findings.fused]
    reasons = "; ".join(gemm.describe(gemm.obstacle or NOT_MATCHED) for gemm in left)
    raise LoweringError(
        f"inductor made {found} integer kernels of the {len(gemms)} convolutions and linears with quantized weights; "
        f"at least {floor} are asked for. In float: {reasons or 'none of them'}. Quantize what the reasons name, or "
        f"lower with min_fused={found}"
    )
