"""The layers of a model that rules can tell apart, and the points at which each of them rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.decision import decision_of
from quantizer_sdk.errors import RuleError
from quantizer_sdk.match import is_constant
from quantizer_sdk.provenance import module_path
from quantizer_sdk.quantize_pt2e import prepare_pt2e
from quantizer_sdk.quantizer import Quantizer, name_of
from quantizer_sdk.spec import EdgeOrNode
from quantizer_sdk.table import QuantizationConfig
from quantizer_sdk.table_quantizer import TableQuantizer

__all__ = ["Layer", "Layers", "prepare_watched"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Ops that rules quantize or leave float together.

    Attributes:
        modules: Paths of the modules that hold them: that of the op which does the work, and those whose ops its kernel
            takes in, as a relu module of its own; empty for ops outside all submodules, which no module name tells.
        ops: The names of the ops in the graph.
        config: What the quantizer gives the layer.
    """

    modules: tuple[str, ...]
    ops: tuple[str, ...]
    config: QuantizationConfig | None

    @property
    def name(self) -> str:
        """The path of its first module; "" for ops outside all submodules."""
        return self.modules[0] if self.modules else ""


@dataclass(frozen=True, slots=True)
class Layers:
    """All layers that a quantizer quantizes, in the order of the graph.

    Attributes:
        layers: The layers.
        by_module: The index of each one, by the paths of its modules; "" for the ops outside.
        points: For each observer the layers whose ops want it at a point, by the point's (producer, user), where "" is
            for an output; the one whose spec rules first.
        clusters: Layers whose kernels take in ops of one module, as two convolutions with one relu: where only one of
            them is float, that module's op behind it is a kernel of its own, which rounds once more.
    """

    layers: tuple[Layer, ...]
    by_module: dict[str, int]
    points: dict[nn.Module, dict[tuple[str, str], int | None]]
    clusters: tuple[frozenset[int], ...]

    def owners(self, observer: nn.Module, producer: str, users: Iterable[str]) -> tuple[int, ...]:
        """Return the layers that want what an observer watches here; of all its points where ops only move codes."""
        points = self.points.get(observer, {})
        found = [points[key] for key in ((producer, user) for user in ("", *users)) if key in points]
        if not found or None in found:
            found += points.values()
        return tuple(dict.fromkeys(index for index in found if index is not None))


class _Points:
    """Remembers which ops want which observer, when they are inserted.

    Args:
        quantizer: Says what rules give a layer.
    """

    def __init__(self, quantizer: TableQuantizer) -> None:
        self._quantizer = quantizer
        self._points: dict[nn.Module, list[tuple[Node, tuple[str, str]]]] = defaultdict(list)
        self._graphs: list[GraphModule] = []

    def take(self, model: GraphModule, observer_of: dict[EdgeOrNode, nn.Module]) -> None:
        """Do as the quantizer does with the observers of a graph, and remember them."""
        self._quantizer.prepare_obs_or_fq_callback(model, observer_of)
        self._graphs.append(model)
        for point, observer in observer_of.items():
            node = point[1] if isinstance(point, tuple) else point
            key = (point[0].name, node.name) if isinstance(point, tuple) else (node.name, "")
            self._points[observer].append((node, key))

    def layers(self) -> Layers:
        """Return the layers of all graphs."""
        kernels: dict[str, list[Node]] = {}
        for number, graph in enumerate(self._graphs):
            for node in graph.graph.nodes:
                decision = decision_of(node)
                if decision.row is not None and not decision.shares:
                    kernels.setdefault(f"{number}/{decision.fused_into or node.name}", []).append(node)
        heads = _heads(list(kernels.values()))
        leader = {path: next(iter(found)) if len(found) == 1 else path for path, found in heads.items()}
        paths: dict[str, list[str]] = {}
        ops: dict[str, list[Node]] = defaultdict(list)
        for kernel in kernels.values():
            for node in (head := _head(kernel), *(node for node in kernel if node is not head)):
                path = module_path(node)
                first = leader[path]
                known = paths.setdefault(first, [first])
                if path not in known:
                    known.append(path)
                ops[first].append(node)
        config_of = self._quantizer._effective_rules().config_of  # what the rules give; the table of the same package
        layers = tuple(
            Layer(
                modules=_outer(found), ops=tuple(node.name for node in ops[first]), config=config_of(ops[first][0])[0]
            )
            for first, found in paths.items()
        )
        by_module = {path: index for index, found in enumerate(paths.values()) for path in found}
        points: dict[nn.Module, dict[tuple[str, str], int | None]] = {}
        for observer, wanted in self._points.items():
            points[observer] = {
                key: None if decision_of(node).shares else by_module.get(module_path(node)) for node, key in wanted
            }
        shared = (frozenset(by_module[it] for it in (path, *found)) for path, found in heads.items() if len(found) > 1)
        return Layers(layers, by_module, points, tuple(shared))


def _head(kernel: list[Node]) -> Node:
    """Return the op that does a kernel's work: the first that has a weight, else the first."""
    return next((node for node in kernel if any(is_constant(operand) for operand in node.all_input_nodes)), kernel[0])


def _heads(kernels: list[list[Node]]) -> dict[str, set[str]]:
    """Return, by module path, the paths of the modules whose kernels its ops are in."""
    heads: dict[str, set[str]] = defaultdict(set)
    for kernel in kernels:
        for node in kernel:
            heads[module_path(node)].add(module_path(_head(kernel)))
    return heads


def _outer(paths: list[str]) -> tuple[str, ...]:
    """Return the paths that rules are set for: a rule for a module covers those inside it."""
    return tuple(path for path in paths if path and not any(path.startswith(f"{outer}.") for outer in paths if outer))


def prepare_watched(model: GraphModule, quantizer: TableQuantizer) -> tuple[GraphModule, Layers]:
    """Prepare a model as `prepare_pt2e` does, and tell its layers.

    Raises:
        RuleError: The quantizer is not made by a table, so that it has no rules to change.
        QuantizerError: As `prepare_pt2e` raises.
    """
    if not isinstance(quantizer, TableQuantizer):
        kind = name_of(quantizer) if isinstance(quantizer, Quantizer) else type(quantizer).__name__
        raise RuleError(f"the quantizer is a {kind}; layers are told apart by the rules of a TableQuantizer")
    points = _Points(quantizer)
    watched = quantizer.copy()
    setattr(watched, "prepare_obs_or_fq_callback", points.take)  # noqa: B010  # of this copy alone
    prepared = prepare_pt2e(model, watched)
    return prepared, points.layers()
