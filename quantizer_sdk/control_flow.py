"""The graphs inside a graph: the ops of control flow that the engine enters, and what each does, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

__all__ = ["FORMS", "ControlFlow", "form_of", "graphs_of", "inner_graphs", "nodes_of"]


def run_cond(predicate: Any, true_graph: nn.Module, false_graph: nn.Module, operands: Sequence[Any]) -> Any:
    """Run one of two graphs."""
    return true_graph(*operands) if predicate else false_graph(*operands)


def run_while_loop(
    cond_graph: nn.Module, body_graph: nn.Module, carried: Sequence[Any], closure: Sequence[Any]
) -> tuple[Any, ...]:
    """Run a graph on its own results as long as another says so."""
    state = tuple(carried)
    while cond_graph(*state, *closure):
        state = tuple(body_graph(*state, *closure))
    return state


def run_map(body_graph: nn.Module, sliced: Sequence[torch.Tensor], closure: Sequence[Any]) -> list[Any]:
    """Run a graph on each slice along axis 0 and stack its results."""
    runs = [body_graph(*slices, *closure) for slices in zip(*(tensor.unbind() for tensor in sliced), strict=True)]
    return [_stack(results) for results in zip(*runs, strict=True)]


def run_scan(
    combine_graph: nn.Module, initial: Sequence[Any], sliced: Sequence[torch.Tensor], closure: Sequence[Any]
) -> list[Any]:
    """Run a graph on each slice along axis 0 and on what it carried over; stack its other results."""
    state, runs = list(initial), []
    for slices in zip(*(tensor.unbind() for tensor in sliced), strict=True):
        results = list(combine_graph(*state, *slices, *closure))
        state, rest = results[: len(state)], results[len(state) :]
        runs.append(rest)
    return [*state, *(_stack(results) for results in zip(*runs, strict=True))]


def run_with_grad(enabled: bool, graph: nn.Module, *operands: Any) -> Any:
    """Run a graph with gradients on or off."""
    with torch.set_grad_enabled(enabled):
        return graph(*operands)


def _stack(results: Sequence[Any]) -> Any:
    return None if results[0] is None else torch.stack(list(results))


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFlow:
    """One op of control flow.

    Attributes:
        name: Its name in `torch.ops.higher_order`.
        run: The same in plain Python: modules inside may keep state, and gradients take the usual way.
        graphs: The positions of the arguments that are graphs.
        closure: The position of the operands that are the same each time a graph runs: the last of those that become
            its placeholders.
        starred: Whether the closure is all arguments from that position on, instead of one list.
    """

    name: str
    run: Callable[..., Any]
    graphs: tuple[int, ...]
    closure: int
    starred: bool = False

    @property
    def op(self) -> Any:
        """The op itself."""
        return getattr(torch.ops.higher_order, self.name)

    def closure_of(self, call: Node) -> list[Any]:
        """Return the operands that are the same each time a graph runs."""
        return list(call.args[self.closure :] if self.starred else call.args[self.closure])  # type: ignore[arg-type]

    def set_closure(self, call: Node, operands: Sequence[Any]) -> None:
        """Replace them."""
        if self.starred:
            call.args = (*call.args[: self.closure], *operands)
            return
        kind = tuple if isinstance(call.args[self.closure], tuple) else list
        call.args = (*call.args[: self.closure], kind(operands), *call.args[self.closure + 1 :])

    def graph_nodes(self, call: Node) -> list[Node]:
        """Return the get_attr nodes of its graphs."""
        nodes = [call.args[position] for position in self.graphs]
        assert all(isinstance(node, Node) and node.op == "get_attr" for node in nodes)
        return nodes  # type: ignore[return-value]


FORMS: tuple[ControlFlow, ...] = (
    ControlFlow(name="cond", run=run_cond, graphs=(1, 2), closure=3),
    ControlFlow(name="while_loop", run=run_while_loop, graphs=(0, 1), closure=3),
    ControlFlow(name="map_impl", run=run_map, graphs=(0,), closure=2),
    ControlFlow(name="scan", run=run_scan, graphs=(0,), closure=3),
    ControlFlow(name="wrap_with_set_grad_enabled", run=run_with_grad, graphs=(1,), closure=2, starred=True),
)

_BY_NAME = {form.name: form for form in FORMS}
_BY_FUNCTION = {form.run: form for form in FORMS}


def form_of(node: Node) -> ControlFlow | None:
    """Return which op of control flow a node calls, as the op or in its plain form; None for all else."""
    if (
        node.op != "call_function" or type(node.target) is torch._ops.OpOverload
    ):  # nearly all are, and it is quick to see
        return None
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return _BY_NAME.get(node.target.__name__)
    return _BY_FUNCTION.get(node.target)  # type: ignore[arg-type]


def inner_graphs(model: GraphModule) -> Iterator[tuple[str, GraphModule]]:
    """Yield the name and module of every graph that a graph's own nodes run, each once."""
    seen: set[str] = set()
    for node in model.graph.nodes:
        form = form_of(node)
        for attribute in () if form is None else form.graph_nodes(node):
            name = str(attribute.target)
            module = model.get_submodule(name)
            if name not in seen and isinstance(module, GraphModule):
                seen.add(name)
                yield name, module


def graphs_of(model: GraphModule, path: str = "") -> Iterator[tuple[str, GraphModule]]:
    """Yield the path and module of a graph, whose path is "", and of all graphs inside it, outer ones first."""
    yield path, model
    for name, module in inner_graphs(model):
        yield from graphs_of(module, f"{path}.{name}" if path else name)


def nodes_of(model: GraphModule) -> Iterator[Node]:
    """Yield the nodes of a graph and of all graphs inside it."""
    for _path, graph in graphs_of(model):
        yield from graph.graph.nodes
