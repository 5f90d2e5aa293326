"""What the benchmark finds out about a model, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = ["COLUMNS", "Column", "Result"]

COLUMNS = ("fp32", "ours", "peer")
"""The programs that are compared, all through the same lowering."""


@dataclass(kw_only=True)
class Column:
    """One program's figures; after an error those that were still found.

    Attributes:
        error: What went wrong, and where.
        quantized: Ops quantized with qparams of their own, of which `explain` says so.
        shared: Ops that move codes.
        left_float: How many ops are float, by "op: reason".
        outside: Ops quantized in the graph but not taken by the delegate.
        subgraphs: Delegated subgraphs.
        delegated: Nodes in them.
        non_delegated: How many operators the portable runtime executes, by name.
        integer_nodes: XNNPACK nodes that compute on int8, dynamically quantized gemms among them.
        clamps: Those of them that only clamp: work that a gemm's kernel does for nothing where it is given the limits.
        float_nodes: XNNPACK nodes that compute in float.
        conversions: XNNPACK nodes that convert between the two.
        sqnr: Of all outputs against the float model in PyTorch, in dB; None where it is not finite.
        size: Of the program, in bytes.
        latency: Median of one call, in ms.
        seconds: That quantizing and lowering took.
    """

    error: str | None = None
    quantized: int | None = None
    shared: int | None = None
    left_float: dict[str, int] = dataclasses.field(default_factory=dict)
    outside: dict[str, int] = dataclasses.field(default_factory=dict)
    subgraphs: int | None = None
    delegated: int | None = None
    non_delegated: dict[str, int] = dataclasses.field(default_factory=dict)
    integer_nodes: int | None = None
    clamps: int | None = None
    float_nodes: int | None = None
    conversions: int | None = None
    sqnr: float | None = None
    size: int | None = None
    latency: float | None = None
    seconds: float | None = None


@dataclass(kw_only=True)
class Result:
    """One model's figures, or why there are none.

    Attributes:
        name: The model's.
        scheme: How it is quantized.
        skipped: Why it was not measured.
        columns: By name, of `COLUMNS`.
    """

    name: str
    scheme: str
    skipped: str | None = None
    columns: dict[str, Column] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Result:
        """Read what `dataclasses.asdict` wrote."""
        return cls(**{**fields, "columns": {name: Column(**column) for name, column in fields["columns"].items()}})
