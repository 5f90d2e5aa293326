"""The ops of a graph as rows, and the tensors between them: who reads whose result, in which dtype."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.control_flow import form_of, graphs_of
from quantizer_sdk.provenance import module_path, name_in, op_name, source_line, value_of
from quantizer_sdk.qdq import is_dequantize, is_quantize
from quantizer_sdk.report import is_op

__all__ = ["Edge", "FlowNode", "flow_of"]


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor that one row hands to another.

    Attributes:
        producer: The row that makes it.
        dtype: What it is made of where it is read, such as "int8"; of codes where q/dq stand between.
        quantized: Whether they do.
    """

    producer: int
    dtype: str
    quantized: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowNode:
    """One row: an input, an op or an output of the model.

    Attributes:
        name: The node's name; inside control flow after the graph's path, "true_graph_0/linear".
        op: Its overload, or "input" and "output".
        shape: Of its result, such as "[1, 32, 112, 112]"; "" if unknown.
        module: Path of the module it came from.
        source: The user's line.
        edges: What it reads of other rows.
    """

    name: str
    op: str
    shape: str
    module: str
    source: str
    edges: tuple[Edge, ...]


def flow_of(model: GraphModule) -> tuple[FlowNode, ...]:
    """Return the rows of a float, prepared or converted model, those of inner graphs after the outer ones.

    Constants, observers and q/dq ops have no row; they are what the edges go through. Costs O(nodes + edges).
    """
    rows: list[FlowNode] = []
    for path, graph in graphs_of(model):
        rows.extend(_rows(graph, path, len(rows)))
    return tuple(rows)


def _rows(graph: GraphModule, path: str, start: int) -> Iterator[FlowNode]:
    origins: dict[Node, dict[int, Edge]] = {}
    count = start
    for node in graph.graph.nodes:
        read: dict[int, Edge] = {}
        for operand in node.all_input_nodes:
            for edge in origins.get(operand, {}).values():
                read.setdefault(edge.producer, edge)
        if not _has_row(node):
            origins[node] = {edge.producer: _through(node, edge) for edge in read.values()}
            continue
        yield FlowNode(
            name=name_in(path, node.name),
            op={"placeholder": "input", "output": "output"}.get(node.op, op_name(node)),
            shape=_shape(value_of(node)),
            module=module_path(node),
            source=source_line(node),
            edges=tuple(read.values()),
        )
        origins[node] = {count: Edge(count, _dtype(value_of(node)), quantized=False)}
        count += 1


def _has_row(node: Node) -> bool:
    return node.op in {"placeholder", "output"} or is_op(node) or form_of(node) is not None


def _through(node: Node, edge: Edge) -> Edge:
    """Return what an edge is behind a node without a row."""
    if is_quantize(node) or is_dequantize(node):
        codes = next((argument for argument in node.args if isinstance(argument, torch.dtype)), None)
        return Edge(edge.producer, edge.dtype if codes is None else _name(codes), quantized=True)
    return edge


def _dtype(value: Any) -> str:
    return _name(value.dtype) if isinstance(value, torch.Tensor) else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(value: Any) -> str:
    return (
        str([str(size) if isinstance(size, torch.SymInt) else size for size in value.shape]).replace("'", "")
        if (isinstance(value, torch.Tensor))
        else ""
    )
