"""One kernel of a converted graph as a graph of its own, with the codes that it had there as its inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from quantizer_sdk.conformance.kernels import Kernel, Kernels, is_quantize
from quantizer_sdk.errors import GraphError

__all__ = ["kernel_alone"]

_OPS = torch.ops.quantized_decomposed


def kernel_alone(model: GraphModule, node: str, codes: Mapping[str, Tensor]) -> tuple[GraphModule, tuple[Tensor, ...]]:
    """Return the graph of the ops before one quantize, up to the quantizes before these, and the codes of its inputs.

    Args:
        model: A converted graph; its constants are shared, not copied.
        node: The quantize's name.
        codes: The codes at each quantize, those of inputs among them, by name.

    Raises:
        GraphError: The kernel reads something else than known codes and constants.
    """
    kernel = next(kernel for kernel in Kernels.of(model).found if kernel.output.name == node)
    if kernel.inputs:
        raise GraphError(f"{kernel} reads {kernel.inputs[0].name}, which nothing quantizes; expected codes")
    graph = Graph()
    copies: dict[Node, Node] = {}
    inputs: dict[str, Tensor] = {}
    for source in _written(kernel):
        if source.name not in codes:
            raise GraphError(f"{kernel} reads {source.name}, whose codes are not known")
        placeholder = graph.placeholder(f"x{len(inputs)}")
        inputs[placeholder.name] = codes[source.name]
        copies[source] = graph.call_function(source.target, (placeholder, *source.args[1:]))  # type: ignore[arg-type]
    for original in model.graph.nodes:
        if original in {*kernel.ops, *kernel.sources} or (original.op == "get_attr" and _is_read(original, kernel)):
            copies[original] = graph.node_copy(original, copies.__getitem__)
    quantize = graph.node_copy(kernel.output, copies.__getitem__)
    graph.output(graph.call_function(_OPS.dequantize_per_tensor.default, (quantize, *quantize.args[1:])))
    return GraphModule(model, graph), tuple(inputs.values())


def _written(kernel: Kernel) -> list[Node]:
    """Return the quantizes whose codes a kernel reads."""
    found = (source.args[0] for source in kernel.sources)
    return [node for node in dict.fromkeys(found) if isinstance(node, Node) and is_quantize(node)]


def _is_read(constant: Node, kernel: Kernel) -> bool:
    return any(user in {*kernel.ops, *kernel.sources} for user in constant.users)
