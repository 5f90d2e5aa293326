"""A converted graph in words that neither names nor the order of independent nodes change."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.conformance.kernels import attribute

__all__ = ["fingerprint"]


def fingerprint(model: GraphModule) -> str:
    """Return a digest of what a graph computes: ops, arguments, qparams and constants, from its outputs backwards."""
    places = {node: place for place, node in enumerate(model.graph.find_nodes(op="placeholder", sort=True))}
    found: dict[Node, str] = {}
    for node in model.graph.nodes:
        if node.op == "placeholder":
            found[node] = f"input {places[node]}"
        elif node.op == "get_attr":
            found[node] = _constant(attribute(model, node))
        else:
            text = f"{node.target}({_words(node.args, found)};{_words(node.kwargs, found)})"
            found[node] = hashlib.sha256(text.encode()).hexdigest()
    (output,) = model.graph.find_nodes(op="output")
    return found[output]


def _words(value: Any, found: dict[Node, str]) -> str:
    if isinstance(value, Node):
        return found[value]
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_words(element, found) for element in value)}]"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_words(element, found)}" for key, element in sorted(value.items()))
    return repr(value)


def _constant(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    plain = value.detach().contiguous()
    content = plain.numpy().tobytes() if plain.dtype is not torch.bfloat16 else plain.float().numpy().tobytes()
    return f"{plain.dtype}{tuple(plain.shape)}{hashlib.sha256(content).hexdigest()}"
