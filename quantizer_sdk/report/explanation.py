"""What explain() returns: all ops, remarks and warnings, with totals; as text, plain data, JSON and HTML."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quantizer_sdk.report.records import STATES, Finding, OpRecord

__all__ = ["Explanation"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All ops of a model, in graph order, and remarks on the whole.

    Attributes:
        ops: One record an op; calls that only handle sizes or take tuples apart are not ops.
        notes: Remarks, such as a configured rule that matched nothing, and what it perhaps should say.
        warnings: What to look at: such rules, suspicious ranges, needless requantization.
    """

    ops: tuple[OpRecord, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[Finding, ...] = ()

    def count(self, state: str) -> int:
        """Return the number of ops in a state."""
        return sum(op.state == state for op in self.ops)

    def float_ops(self) -> tuple[OpRecord, ...]:
        """Return the ops left float."""
        return tuple(op for op in self.ops if op.state == "float")

    def parameters(self, state: str) -> int:
        """Return the elements of the constants that ops in a state read; each counts once, with its first reader."""
        return sum(op.parameters for op in self.ops if op.state == state)

    def macs(self, state: str) -> int:
        """Return the multiplications of ops in a state; see `OpRecord.macs`. Ops in loops count once."""
        return sum(op.macs or 0 for op in self.ops if op.state == state)

    @property
    def open_sizes(self) -> bool:
        """Whether the number of multiplications rests on sizes that are open, as they are in the example."""
        return any(op.open_sizes for op in self.ops)

    def find(self, words: str) -> tuple[OpRecord, ...]:
        """Return the ops whose name, overload or module path holds these words."""
        return tuple(op for op in self.ops if words in op.node or words in op.op or words in op.module)

    def to_dict(self) -> dict[str, Any]:
        """Return totals, notes, warnings and ops as plain data."""

        def by_state(total: Callable[[str], int]) -> dict[str, int]:
            return {state: total(state) for state in STATES}

        return {
            "totals": by_state(self.count),
            "parameters": by_state(self.parameters),
            "macs": by_state(self.macs),
            "open_sizes": self.open_sizes,
            "notes": list(self.notes),
            "warnings": [dataclasses.asdict(finding) for finding in self.warnings],
            "ops": [dataclasses.asdict(op) for op in self.ops],
        }

    def to_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def to_html(self, title: str = "What became of each op") -> str:
        """Return one HTML page that needs nothing else: a table that can be searched and sorted.

        Args:
            title: Its heading.

        Raises:
            MissingDependencyError: Jinja is not installed.
        """
        from quantizer_sdk.report.html import to_html

        return to_html(self, title)

    def __str__(self) -> str:
        from quantizer_sdk.report.text import to_text

        return to_text(self)

    def __repr__(self) -> str:
        return f"<Explanation of {len(self.ops)} ops; print it, or take to_dict(), to_json() or to_html()>"
