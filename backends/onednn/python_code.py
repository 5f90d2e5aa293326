"""Calls in order as the code of one Python function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from quantizer_sdk.backends.onednn.bindings import Binding

__all__ = ["Step", "compiled"]


@dataclass(frozen=True, slots=True)
class Step:
    """One call.

    Attributes:
        node: Of the graph.
        binding: How it is made.
    """

    node: Node
    binding: Binding


def compiled(inputs: Sequence[Node], steps: Sequence[Step], results: Sequence[Any]) -> Callable[..., Any]:
    """Return a function of the inputs that makes the calls in order, and drops each result after its last use."""
    bound: dict[str, Any] = {}
    names = {node: f"v{index}" for index, node in enumerate([*inputs, *(step.node for step in steps)])}
    last: dict[Node, int] = {}
    for index, step in enumerate(steps):
        for node in _nodes((step.binding.operands, dict(step.binding.keywords))):
            last[node] = index
    kept = set(_nodes(results))
    lines = [f"def run({', '.join(names[node] for node in inputs)}):"]
    for index, step in enumerate(steps):
        call = step.binding
        parts = [_text(operand, names, bound) for operand in call.operands]
        parts += [f"{name}={_text(value, names, bound)}" for name, value in call.keywords.items()]
        lines.append(f" {names[step.node]} = {_constant(call.function, bound)}({', '.join(parts)})")
        over = [
            names[node]
            for node in dict.fromkeys(_nodes((call.operands, dict(call.keywords))))
            if last[node] == index and node not in kept
        ]
        if step.node not in last and step.node not in kept:
            over.append(names[step.node])
        if over:
            lines.append(f" del {', '.join(over)}")
    lines.append(f" return ({''.join(f'{_text(result, names, bound)}, ' for result in results)})")
    exec(compile("\n".join(lines), "<straight form of a oneDNN program>", "exec"), bound)  # noqa: S102  its own text
    function: Callable[..., Any] = bound["run"]
    return function


def _nodes(value: Any) -> list[Node]:
    return [leaf for leaf in _flat(value) if isinstance(leaf, Node)]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _flat(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _flat(item)]
    if isinstance(value, slice):
        return _flat((value.start, value.stop, value.step))
    return [value]


def _text(value: Any, names: Mapping[Node, str], bound: dict[str, Any]) -> str:
    """Return an expression for an operand; what has no text of its own is bound to a name."""
    if isinstance(value, Node):
        return names[value]
    if not _nodes(value):
        return repr(value) if type(value) in {bool, int, str, type(None)} else _constant(value, bound)
    if isinstance(value, slice):
        return f"slice({', '.join(_text(item, names, bound) for item in (value.start, value.stop, value.step))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_text(item, names, bound)}' for key, item in value.items())}}}"
    items = "".join(f"{_text(item, names, bound)}, " for item in value)
    return f"[{items}]" if isinstance(value, list) else f"({items})"


def _constant(value: Any, bound: dict[str, Any]) -> str:
    name = f"c{len(bound)}"
    bound[name] = value
    return name
