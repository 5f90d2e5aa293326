"""A graph as the source text of a module's `forward`, and tensors as literals."""

from __future__ import annotations

import math
import operator
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from quantizer_sdk.conformance.kernels import attribute, is_dequantize, is_quantize
from quantizer_sdk.errors import UnsupportedError

__all__ = ["ModuleSource", "module_source", "tensor_literal"]

_WIDTH = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSource:
    """The text of a module of torch alone.

    Attributes:
        names: What `forward` takes, in order.
        constants: Name and literal of each buffer.
        body: The lines of `forward`, which returns a tuple; `aten` and `quantized_decomposed` are those of `torch.ops`.
    """

    names: tuple[str, ...]
    constants: tuple[tuple[str, str], ...]
    body: tuple[str, ...]


def module_source(model: GraphModule) -> ModuleSource:
    """Write a graph of op overloads out.

    Raises:
        UnsupportedError: A node has no such text: it calls something else than an op.
    """
    names = _names(model)
    buffers = {
        str(node.target): (names[node], attribute(model, node)) for node in model.graph.find_nodes(op="get_attr")
    }
    return ModuleSource(
        names=tuple(names[node] for node in model.graph.find_nodes(op="placeholder")),
        constants=tuple((name, tensor_literal(value, 8)) for name, value in buffers.values()),
        body=tuple(_lines(model, names)),
    )


def _names(model: GraphModule) -> dict[Node, str]:
    """Return short names: x for inputs, p for constants, q for quantized, d for dequantized and v for other values."""
    kinds = {"placeholder": "x", "get_attr": "p", "call_function": "v"}
    count: Counter[str] = Counter()
    names: dict[Node, str] = {}
    attributes: dict[object, str] = {}
    for node in model.graph.nodes:
        if node.op == "get_attr" and node.target in attributes:
            names[node] = attributes[node.target]
            continue
        kind = "q" if is_quantize(node) else "d" if is_dequantize(node) else kinds.get(node.op, "")
        names[node] = f"{kind}{count[kind]}"
        count[kind] += 1
        if node.op == "get_attr":
            attributes[node.target] = names[node]
    return names


def _lines(model: GraphModule, names: Mapping[Node, str]) -> Iterator[str]:
    for node in model.graph.nodes:
        if node.op == "call_function":
            yield f"{names[node]} = {_call(node, names)}"
        elif node.op == "output":
            results = node.args[0] if isinstance(node.args[0], (tuple, list)) else (node.args[0],)
            yield f"return ({', '.join(_literal(result, names) for result in results)},)"
        elif node.op not in {"placeholder", "get_attr"}:
            raise UnsupportedError(f"{node.name} is a {node.op} of {node.target}; expected calls of ops")


def _call(node: Node, names: Mapping[Node, str]) -> str:
    if node.target is operator.getitem:
        return f"{_literal(node.args[0], names)}[{_literal(node.args[1], names)}]"
    if not isinstance(node.target, torch._ops.OpOverload):
        raise UnsupportedError(f"{node.name} calls {node.target}; expected ops")
    arguments = [_literal(argument, names) for argument in node.args]
    arguments += [f"{name}={_literal(argument, names)}" for name, argument in node.kwargs.items()]
    return f"{node.target}({', '.join(arguments)})"


def _literal(value: Any, names: Mapping[Node, str] = MappingProxyType({})) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_literal(element, names) for element in value)}]"
    if isinstance(value, Node):
        return f"self.{names[value]}" if value.op == "get_attr" else names[value]
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if value is None or isinstance(value, (bool, int, float, torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    if isinstance(value, str):
        return repr(value)
    raise UnsupportedError(f"an argument is a {type(value).__name__}; expected numbers, strings and dtypes")


def tensor_literal(tensor: Tensor, indent: int = 0) -> str:
    """Return source text that makes the tensor: each number exactly, lines of at most 120 columns where it begins.

    Args:
        tensor: Of integers or of floats.
        indent: Of the lines after the first.
    """
    flat = tensor.detach().reshape(-1).tolist()
    numbers = ", ".join(_literal(number) for number in flat)
    shape = "" if tensor.dim() == 1 else f".reshape({', '.join(map(str, tensor.shape))})"
    if tensor.dim() == 0:
        shape = ".reshape(())"
    text = f"torch.tensor([{numbers}], dtype={tensor.dtype}){shape}"
    if len(text) + indent <= _WIDTH:
        return text
    pad = " " * indent
    lines = textwrap.wrap(numbers, _WIDTH - indent - 4)
    inner = "\n".join(f"{pad}    {line}" for line in lines)
    return f"torch.tensor(\n{pad}  [\n{inner}\n{pad}  ],\n{pad}  dtype={tensor.dtype},\n{pad}){shape}"
