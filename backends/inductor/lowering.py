"""From a converted module to a program that inductor compiled, with its integer kernels counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import Boundary, boundary_of, copy_without_guards, quiet_logs, strip_boundary
from quantizer_sdk.backends.inductor.compiling import (
    Compiled,
    compile_graph,
    despite_others,
    flatten_outputs,
    reporting,
)
from quantizer_sdk.backends.inductor.gemms import Gemm
from quantizer_sdk.backends.inductor.inputs import describe_inputs
from quantizer_sdk.backends.inductor.kernels import count_integer_products
from quantizer_sdk.backends.inductor.normal_form import to_normal_form
from quantizer_sdk.backends.inductor.packaging import PackagedProgram, load_inductor
from quantizer_sdk.backends.inductor.program import InductorProgram
from quantizer_sdk.errors import LoweringError

__all__ = ["lower_inductor", "lower_unoptimized", "package_inductor"]


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

    program = _program(clone, inputs, dynamic_shapes, boundary, gemms, autocast=autocast)
    _check(program, gemms, min_fused)
    return program


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

    return _program(clone, inputs, dynamic_shapes, boundary, (), optimize=False)


def package_inductor(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    path: str | Path,
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
    min_fused: int | None = None,
    autocast: torch.dtype | None = None,
) -> PackagedProgram:
    """Lower a model and compile it ahead of time into a file; the other arguments and errors are `lower_inductor`'s.

    Args:
        model: As for `lower_inductor`.
        example_inputs: As for `lower_inductor`.
        path: The file; its name ends in .pt2.
        dynamic_shapes: As for `lower_inductor`.
        integer_io: As for `lower_inductor`.
        min_fused: As for `lower_inductor`.
        autocast: As for `lower_inductor`.

    Returns:
        The program that the file holds, loaded from it.
    """
    program = lower_inductor(
        model,
        example_inputs,
        dynamic_shapes=dynamic_shapes,
        integer_io=integer_io,
        min_fused=min_fused,
        autocast=autocast,
    )
    program.save(path)
    return load_inductor(path)


def _copied(
    model: GraphModule, inputs: tuple[torch.Tensor, ...], *, integer_io: bool
) -> tuple[GraphModule, tuple[torch.Tensor, ...], Boundary]:
    boundary = boundary_of(model)
    if integer_io:
        clone, inputs = strip_boundary(model, inputs)
        return clone, inputs, boundary
    return copy_without_guards(model), inputs, boundary.as_float()


def _program(
    model: GraphModule,
    inputs: tuple[torch.Tensor, ...],
    dynamic_shapes: Any,
    boundary: Boundary,
    gemms: tuple[Gemm, ...],
    *,
    optimize: bool = True,
    autocast: torch.dtype | None = None,
) -> InductorProgram:
    """Compile a graph with flat arguments and results."""
    exported = _exported(model, inputs, dynamic_shapes)
    takes = describe_inputs(inputs, exported)

    def compiled_for(arguments: Sequence[torch.Tensor], opened: torch.export.ExportedProgram | None) -> Compiled:
        if opened is None:
            return despite_others(
                lambda: compile_graph(copy_without_guards(model), arguments, optimize=optimize, autocast=autocast)
            )
        return despite_others(lambda: _compiled(opened, optimize=optimize, autocast=autocast))

    def again(arguments: Sequence[torch.Tensor]) -> Compiled:
        # torch takes a size of 0 or 1 for a constant, so such are compiled for as they are.
        constant = any(spec.has_constant(tensor) for spec, tensor in zip(takes, arguments, strict=True))
        return compiled_for(arguments, None if constant else _exported(model, arguments, dynamic_shapes))

    compiled = compiled_for(inputs, exported)
    return InductorProgram(
        compiled,
        again,
        model,
        inputs,
        dynamic_shapes=dynamic_shapes,
        takes=takes,
        boundary=boundary,
        gemms=gemms,
        autocast=autocast,
    )


def _exported(
    model: GraphModule, inputs: Sequence[torch.Tensor], dynamic_shapes: Any
) -> torch.export.ExportedProgram | None:
    """Export a graph anew where sizes are dynamic; else it can be compiled as it is, which is faster."""
    if dynamic_shapes is None:
        return None
    with reporting("export the model"), quiet_logs("torch"):
        return torch.export.export(model, tuple(inputs), dynamic_shapes=dynamic_shapes)


def _compiled(exported: torch.export.ExportedProgram, **options: Any) -> Compiled:
    opened = exported.module(check_guards=False)
    assert isinstance(opened, GraphModule)
    flatten_outputs(opened)
    return compile_graph(opened, [node.meta["val"] for node in opened.graph.find_nodes(op="placeholder")], **options)


def _check(program: InductorProgram, gemms: tuple[Gemm, ...], min_fused: int | None) -> None:
    """Compare the integer kernels in the generated code with what is asked for."""
    floor = sum(gemm.obstacle is None for gemm in gemms) if min_fused is None else min_fused
    found = count_integer_products(program.kernels())
    if found < floor:
        raise LoweringError(
            f"inductor made {found} integer kernels of the {len(gemms)} convolutions and linears with quantized "
            f"weights; at least {floor} are asked for. In float: {'; '.join(program.floats) or 'none of them'}. "
            f"Quantize what the reasons name, or lower with min_fused={found}"
        )
