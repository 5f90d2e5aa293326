"""Where a node comes from: its op, the user's line, the module path; in the words that errors and reports use."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node

__all__ = [
    "ORIGIN_KEY",
    "describe",
    "describe_point",
    "listed",
    "location_of",
    "module_path",
    "module_types",
    "name_in",
    "op_name",
    "origin_of",
    "producer_of",
    "shape_of",
    "source_line",
    "value_of",
]

ORIGIN_KEY = "quantizer_sdk_origin"
"""Where the metadata of an op that was put in another one's place has that one's overload."""

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)\n\s*(?P<code>[^\n]*)')
_TORCH = str(Path(torch.__file__).parent)


def op_name(node: Node) -> str:
    """Return "aten.conv2d.default" for a call of that overload, the fx op's name for all else."""
    if node.op == "call_function":
        target = node.target
        return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))
    return f"{node.op} {node.target}" if node.op in {"get_attr", "call_module", "call_method"} else node.op


def name_in(path: str, name: str) -> str:
    """Return the name by which reports know an op: inside control flow it stands behind the path of its graph."""
    return f"{path}/{name}" if path else name


def origin_of(node: Node) -> Any:
    """Return the op as the user's model has it: that in whose place this one was put, or this one."""
    return node.meta.get(ORIGIN_KEY, node.target)


def value_of(node: Node) -> Any:
    """Return the example value that export left on a node (a FakeTensor, a SymInt, a tuple), or None."""
    return node.meta.get("val")


def source_line(node: Node) -> str:
    """Return the innermost line of the user's own code that made this node, as "file:line: code", or ""."""
    last = ""
    for frame in _FRAME.finditer(node.meta.get("stack_trace") or ""):
        if not frame["file"].startswith((_TORCH, "torch/", "<")):
            last = f"{frame['file']}:{frame['line']}: {frame['code'].strip()}"
    return last


def module_path(node: Node) -> str:
    """Return the path of the innermost module around this node, as in `model.get_submodule(path)`; "" for the top."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [_plain_path(path) for path, _type in stack.values()]
    return paths[-1] if paths else ""


def module_types(node: Node) -> tuple[tuple[str, str], ...]:
    """Return (path, qualified class name) of every module around this node, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    pairs = []
    for path, kind in stack.values():
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        pairs.append((_plain_path(path), name))
    return tuple(pairs)


@functools.lru_cache(maxsize=65536)
def _plain_path(path: str) -> str:
    """Turn the forms that export writes ("L['self'].a.0", "L__self___a", "a.0@1") into "a.0"."""
    path = path.split("@", maxsplit=1)[0]
    path = re.sub(r"L\['self'\]\.?|^L__self___", "", path)
    path = re.sub(r"\._modules\['([^']+)'\]", r".\1", path)
    return re.sub(r"\[['\"]?([^'\"\]]+)['\"]?\]", r".\1", path).strip(".")


def describe(node: Node) -> str:
    """Name a node the way a user can find it: its name, its op, the line and the module it came from."""
    parts = [f"{node.name} ({op_name(node)})"]
    if line := source_line(node):
        parts.append(f"from {line}")
    if path := module_path(node):
        parts.append(f"in module {path!r}")
    return " ".join(parts)


def describe_point(point: tuple[Node, Node] | Node) -> str:
    """Name a point of quantization in a few words: "conv2d -> add" for an edge, "output of add" for a node."""
    if isinstance(point, tuple):
        return f"{point[0].name} -> {point[1].name}"
    return f"output of {point.name}"


def listed(items: Sequence[str], most: int) -> str:
    """Return items as one text, the first so many of them, and the number of the others."""
    more = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


def location_of(points: Sequence[tuple[Node, Node] | Node]) -> str:
    """Name where the observer of some points sits: the first of them, and the module and line of the very first."""
    names = ", ".join(describe_point(point) for point in points[:3])
    more = f" and {len(points) - 3} more" if len(points) > 3 else ""
    return f"[{names}{more}], which watches {describe(producer_of(points[0]))}"


def producer_of(point: tuple[Node, Node] | Node) -> Node:
    """Return the node whose result is quantized at a point."""
    return point[0] if isinstance(point, tuple) else point


def shape_of(point: tuple[Node, Node] | Node) -> Sequence[int] | None:
    """Return the shape of the tensor at a point; None where export left no example value."""
    value = value_of(producer_of(point))
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
