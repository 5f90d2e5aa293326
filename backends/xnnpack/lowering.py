"""From an exported module to a program for ExecuTorch's runtime, with all that XNNPACK takes delegated to it."""

from __future__ import annotations

import contextlib
import operator
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import Delegation, copy_without_guards, strip_boundary
from quantizer_sdk.backends.xnnpack.own_weights import give_each_call_its_weight
from quantizer_sdk.backends.xnnpack.run_time_qparams import ask_for_run_time_qparams, partition_alone
from quantizer_sdk.backends.xnnpack.runtime import XNNPACKProgram, importing, quiet
from quantizer_sdk.errors import LoweringError

__all__ = ["lower"]


def lower(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Any = None,
    integer_io: bool = False,
) -> XNNPACKProgram:
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
        integer_io: Whether inputs and outputs are the raw int8 tensors: see `strip_boundary`.

    Returns:
        The program, not yet loaded: what only XNNPACK itself refuses, its first `run` reports.

    Raises:
        LoweringError: torch.export or ExecuTorch's compiler refuses the model.
        MissingDependencyError: ExecuTorch is not installed.
    """
    with importing():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

    inputs = tuple(tensor.detach().contiguous() for tensor in example_inputs)
    with quiet():
        if integer_io:
            clone, inputs = strip_boundary(model, inputs)
        else:
            clone = copy_without_guards(model)
        give_each_call_its_weight(clone)
        rest = XnnpackPartitioner()
        partitioners = [partition_alone(rest), rest] if ask_for_run_time_qparams(clone) else [rest]
        with _stage("exporting it with torch.export"):
            exported = torch.export.export(clone, inputs, dynamic_shapes=dynamic_shapes, strict=False)
        with _stage("delegating it to XNNPACK"):
            edge = to_edge_transform_and_lower(exported, partitioner=partitioners)
        delegation = _delegation(edge.exported_program().graph_module)
        with _stage("compiling it to an ExecuTorch program"):
            buffer = bytes(edge.to_executorch().buffer)
    return XNNPACKProgram(buffer, delegation)


@contextlib.contextmanager
def _stage(action: str) -> Iterator[None]:
    """Turn whatever the compiler raises inside the block into a LoweringError that says at what."""
    try:
        yield
    except Exception as e:
        reason = textwrap.shorten(str(e), 400, placeholder=" ...") or "no message"
        raise LoweringError(f"cannot lower the model: {action} failed with {type(e).__name__}: {reason}") from e


def _delegation(graph_module: GraphModule) -> Delegation:
    """Count what was delegated. Operators only: neither the delegate's own calls nor the unpacking of their results."""
    with importing():
        from executorch.exir.lowered_backend_module import LoweredBackendModule

    lowered = [module for module in graph_module.modules() if isinstance(module, LoweredBackendModule)]
    delegated = sum(len(_operators(module.original_module.graph_module)) for module in lowered)
    return Delegation(subgraphs=len(lowered), delegated=delegated, non_delegated=_operators(graph_module))


def _operators(graph_module: GraphModule) -> tuple[str, ...]:
    """Name the operators that a graph calls, in order ("aten.erf.default"), those in branches of control flow last."""
    passed_over = (operator.getitem, torch.ops.higher_order.executorch_call_delegate)
    graphs = [module.graph for module in graph_module.modules() if isinstance(module, GraphModule)]
    targets = [node.target for graph in graphs for node in graph.nodes if node.op == "call_function"]
    return tuple(getattr(target, "__name__", str(target)) for target in targets if target not in passed_over)
