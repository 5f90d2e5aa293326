"""Marks on the nodes of a graph that inductor keeps on what it makes of them, so that a product can be found again."""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import Graph, Node

__all__ = ["found_again", "mark"]

_KEY = "custom"
"""Where fx lets a caller keep data that every later stage copies."""
_PRODUCT, _AFTER = "quantizer_sdk_product", "quantizer_sdk_after"
_STEPS = 4
"""An add, an activation and a quantize is the longest chain that is fused into a product; a view may be between."""


def mark(gemms: Iterable[Node]) -> None:
    """Write a product's name on it and on the ops after it: a fused kernel has the marks of its last op."""
    for gemm in gemms:
        _note(gemm, _PRODUCT, gemm.name)
        node = gemm
        for _ in range(_STEPS):
            if len(node.users) != 1:
                break
            (node,) = node.users
            if node.op != "call_function":
                break
            _note(node, _AFTER, gemm.name)


def _note(node: Node, key: str, name: str) -> None:
    marks = dict(node.meta.get(_KEY) or {})
    marks[key] = (*marks.get(key, ()), name)
    node.meta[_KEY] = marks


def found_again(graph: Graph, fused: Iterable[Node]) -> frozenset[str]:
    """Return the names of the products that these nodes of inductor's graph compute.

    Args:
        graph: Inductor's graph, for the products that are in it by their own mark.
        fused: Its integer kernels.
    """
    kernels = list(fused)
    names = {name for node in kernels for name in _marks(node, _PRODUCT)}
    left = {name for node in set(graph.nodes).difference(kernels) for name in _marks(node, _PRODUCT)}
    for node in kernels:
        if not _marks(node, _PRODUCT):
            candidates = [name for name in _marks(node, _AFTER) if name not in names]
            # The last: of two products that an add joins, the later one takes it in.
            names.update(sorted(candidates, key=lambda name: name in left)[:1])
    return frozenset(names)


def _marks(node: Node, key: str) -> tuple[str, ...]:
    return tuple((node.meta.get(_KEY) or {}).get(key, ()))
