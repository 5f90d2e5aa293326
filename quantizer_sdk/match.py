"""Find the rows of a table in a graph. Reads only; costs O(nodes) times the rows that begin with a node's op."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from quantizer_sdk.constants import constant_nodes
from quantizer_sdk.dtypes import FLOAT_DTYPES
from quantizer_sdk.operands import argument, is_written, overwriting_users, tensor_operands
from quantizer_sdk.provenance import value_of
from quantizer_sdk.refusal import CONSTANT, DTYPE, Refusal, as_refusal
from quantizer_sdk.spec import granularity_of
from quantizer_sdk.table import Operand, QuantizationConfig, Role, Row

__all__ = ["Match", "Refusals", "claims", "find_matches", "follow", "is_constant", "operands_fit"]

Configure = Callable[[Node], "tuple[QuantizationConfig | None, str]"]
"""Returns the config of a node and the words for the rule that gave it."""


@dataclass(frozen=True, slots=True)
class Match:
    """A row found in a graph.

    Attributes:
        row: The row.
        nodes: One node a step.
        config: The config of the first step, which rules the whole.
        rule: The words for the rule that gave it.
    """

    row: Row
    nodes: tuple[Node, ...]
    config: QuantizationConfig
    rule: str = ""

    @property
    def output(self) -> Node:
        """The node whose result leaves the pattern."""
        return self.nodes[-1]

    def argument(self, name: str, step: int = 0) -> Any:
        """Return the value of an argument of a step's op, by its schema name, or its default."""
        return argument(self.nodes[step], name)

    def operands(self) -> Iterator[tuple[Node, str, Operand, Any]]:
        """Yield (node, argument name, operand, value) for all tensors that enter the pattern."""
        previous: Node | None = None
        for node, step in zip(self.nodes, self.row.steps, strict=True):
            for (name, values), operand in zip(tensor_operands(node), step.operands, strict=False):
                for value in values:
                    if value is not previous:
                        yield node, name, operand, value
            previous = node


class Refusals:
    """Why no row claimed a node: the words of every check and rule that said no, without repetition."""

    def __init__(self) -> None:
        self._reasons: dict[Node, dict[str, Refusal]] = defaultdict(dict)

    def add(self, node: Node, reason: str) -> None:
        """Note a reason."""
        self._reasons[node].setdefault(reason, as_refusal(reason))

    def of(self, node: Node) -> Refusal | None:
        """Return all reasons for a node as one, of the first one's kind, or None."""
        if node not in self._reasons:
            return None
        reasons = list(self._reasons[node].values())
        advice = "; or ".join(dict.fromkeys(reason.advice for reason in reasons))
        return Refusal("; ".join(reasons), advice=advice, cause=reasons[0].cause)


def find_matches(
    graph: Graph, rows: Iterable[Row], configure: Configure, claimed: set[Node], refusals: Refusals
) -> list[Match]:
    """Match rows in their order of priority, each node once.

    Args:
        graph: The graph to search.
        rows: In order of priority.
        configure: Gives a node's config.
        claimed: Nodes that are taken; those of the matches found are added.
        refusals: Takes the reasons against nodes that begin a row.
    """
    by_target: dict[Any, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "call_function":
            by_target[node.target].append(node)
    constant, overwriting = constant_nodes(graph), overwriting_users(graph)
    matches: list[Match] = []
    for row in rows:
        for target in sorted(row.steps[0].targets, key=str):
            for first in by_target.get(target, ()):
                match = _match(row, first, configure, claimed, refusals)
                if match is not None and not row.share and match.output in constant:
                    refusals.add(first, Refusal(f"{row.name}: it computes a constant, before run time", cause=CONSTANT))
                elif match is not None and (reason := _changes(match, overwriting)) is not None:
                    refusals.add(first, reason.behind(f"{row.name}: "))
                elif match is not None:
                    claimed.update(match.nodes)
                    matches.append(match)
    return matches


def _changes(match: Match, overwriting: Mapping[Node, set[Node]]) -> Refusal | None:
    """Refuse what changes a tensor in place that others read afterwards: quantized, it would change a copy."""
    for node, _name, _operand, value in match.operands():
        if isinstance(value, Node) and node in overwriting.get(value, ()):
            words = f"{value.name} is changed in place here, and read by others afterwards"
            return Refusal(words, advice="write it without changing in place, such as with torch.cat or torch.where")
    return None


def claims(rows: Iterable[Row], node: Node, configure: Configure) -> bool:
    """Whether a row of one op would claim a node."""
    alone = (row for row in rows if len(row.steps) == 1 and node.target in row.steps[0].targets)
    return any(_match(row, node, configure, set(), Refusals()) is not None for row in alone)


def _match(row: Row, first: Node, configure: Configure, claimed: set[Node], refusals: Refusals) -> Match | None:
    if first in claimed:
        return None
    nodes = follow(row, first, claimed)
    if nodes is None:
        return None
    configs = []
    for node in nodes:
        config, rule = configure(node)
        if config is None:
            refusals.add(first, rule if node is first else as_refusal(rule).behind(f"{node.name}: "))
            return None
        configs.append((config, rule))
    match = Match(row, nodes, *configs[0])
    for check in (operands_fit, *row.checks):
        reason = check(match)
        if reason is not None:
            refusals.add(first, as_refusal(reason).behind(f"{row.name}: "))
            return None
    return match


def follow(row: Row, first: Node, claimed: set[Node]) -> tuple[Node, ...] | None:
    """Return the chain of nodes that the steps describe, each the only user of the one before."""
    nodes = [first]
    for step in row.steps[1:]:
        if len(nodes[-1].users) != 1:
            return None
        (user,) = nodes[-1].users
        if user in claimed or user.target not in step.targets:
            return None
        nodes.append(user)
    return tuple(nodes)


def operands_fit(match: Match) -> str | None:
    """Refuse operands that no spec could be put on, or not the one that they get."""
    for _node, name, operand, value in match.operands():
        if operand.spec(match.config) is None:
            continue
        if not isinstance(value, Node):
            return f"operand {name!r} is the number {value}, and kernels take tensors"
        example = value_of(value)
        if isinstance(example, torch.Tensor) and not example.is_floating_point():
            words = f"operand {name!r} ({value.name}) is of {example.dtype}; only float tensors are quantized"
            return Refusal(words, cause=DTYPE, advice="nothing, as long as it computes on integers: it stays exact")
        if isinstance(example, torch.Tensor) and example.dtype not in FLOAT_DTYPES:
            accepted = ", ".join(str(dtype) for dtype in FLOAT_DTYPES)
            words = f"operand {name!r} ({value.name}) is of {example.dtype}; q/dq ops take {accepted}"
            return Refusal(words, cause=DTYPE)
        if operand.role in {Role.WEIGHT, Role.BIAS} and not is_constant(value):
            return f"operand {name!r} is computed at run time by {value.name}; the kernel takes a constant"
    return _run_time_fits(match)


def _run_time_fits(match: Match) -> str | None:
    """Refuse specs of qparams that each run computes where the kernel does not compute them, or not like that."""
    for _node, name, operand, _value in match.operands():
        spec = operand.spec(match.config)
        if spec is None or not getattr(spec, "is_dynamic", False):
            continue
        if operand.run_time_granularity is None:
            return f"operand {name!r} has a dynamic spec; the kernel takes static ones, with is_dynamic=False"
        accepted = (operand.run_time_granularity, *operand.other_run_time_granularities)
        if (found := granularity_of(spec)) not in accepted:
            words = " or ".join(str(granularity) for granularity in accepted)
            return f"operand {name!r} has {found}; at run time the kernel takes {words}"
    if getattr(match.row.output.spec(match.config), "is_dynamic", False):
        return "its result has a dynamic spec; operands are quantized at run time, and no results"
    return None


def is_constant(node: Node) -> bool:
    """Whether a node depends on tensors that never change, through calls of one operand such as transpose."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.op == "get_attr" and not is_written(node)
