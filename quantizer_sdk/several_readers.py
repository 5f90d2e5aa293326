"""Ops that a table claims only behind another one, whose result other ops read too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.fx import Node

from quantizer_sdk.provenance import op_name
from quantizer_sdk.refusal import MULTI_USER, Refusal
from quantizer_sdk.table import Row

__all__ = ["SeveralReaders"]


class SeveralReaders:
    """What stands inside the rows of a table.

    Args:
        rows: The table.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._within: dict[Any, list[tuple[Row, frozenset[Any]]]] = {}
        for row in sorted(rows, key=lambda row: len(row.steps)):  # the plainest row is the one to name
            for before, step in zip(row.steps, row.steps[1:], strict=False):
                for target in step.targets:
                    self._within.setdefault(target, []).append((row, before.targets))

    def of(self, node: Node) -> Refusal | None:
        """Say that a row takes a node with the op before it, if only other readers of that op forbid it."""
        for row, before in self._within.get(node.target, ()):
            for operand in node.all_input_nodes:
                if operand.target in before and len(operand.users) > 1:
                    return _refusal(node, row, operand)
        return None


def _refusal(node: Node, row: Row, operand: Node) -> Refusal:
    others = [user.name for user in operand.users if user is not node]
    names = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    words = (
        f"no row for {op_name(node)} alone: row {row.name!r} takes it behind {operand.name} where nothing else "
        f"reads that, and {names} {'does' if len(others) == 1 else 'do'}"
    )
    advice = (
        f"the producer {operand.name} has {len(operand.users)} users: let {names} read the result of {node.name}, or "
        f"compute {operand.name} once for each, or add a row for {op_name(node)} alone"
    )
    return Refusal(words, advice=advice, cause=MULTI_USER)
