"""What became of a model when it was lowered: the nodes that ship, and what was left to the portable runtime."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quantizer_sdk.backend import Executable, Kernel
from quantizer_sdk.integer_io import Boundary, BoundaryQParams

__all__ = ["LoweringReport", "PortableOp", "lowering_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortableOp:
    """One op that the backend left to the portable runtime, which computes in float.

    Attributes:
        name: The runtime's name of it, such as "aten.erf.default".
        source: The user's line, "file:line: code"; "" if unknown.
    """

    name: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweringReport:
    """What a program consists of, as read back from it.

    Attributes:
        subgraphs: Number of delegated subgraphs; each border between them costs a call.
        kernels: The nodes that the backend executes, in order.
        portable: The ops that it left to the portable runtime, in order.
        size: The program's size in bytes, weights included.
        boundary: The qparams of inputs and outputs that are tensors of codes.
    """

    subgraphs: int
    kernels: tuple[Kernel, ...]
    portable: tuple[PortableOp, ...]
    size: int
    boundary: Boundary

    @property
    def integer(self) -> int:
        """Number of nodes that compute on integers."""
        return sum(kernel.integer for kernel in self.kernels)

    @property
    def conversions(self) -> int:
        """Number of nodes that only convert between float and integer."""
        return sum(kernel.conversion for kernel in self.kernels)

    @property
    def float(self) -> int:
        """Number of nodes with a float operand or result that do more than convert."""
        return len(self.kernels) - self.integer - self.conversions

    def to_dict(self) -> dict[str, Any]:
        """Return totals, nodes, portable ops and the boundary as plain data."""
        return {
            "subgraphs": self.subgraphs,
            "size": self.size,
            "totals": {
                "integer": self.integer,
                "conversions": self.conversions,
                "float": self.float,
                "portable": len(self.portable),
            },
            "kernels": [
                {**dataclasses.asdict(kernel), "inputs": list(kernel.inputs), "outputs": list(kernel.outputs)}
                for kernel in self.kernels
            ],
            "portable": [dataclasses.asdict(op) for op in self.portable],
            "inputs": [_plain(qparams) for qparams in self.boundary.inputs],
            "outputs": [_plain(qparams) for qparams in self.boundary.outputs],
        }

    def to_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"{self.size:,} bytes, delegated subgraphs: {self.subgraphs}; nodes: {self.integer} integer, "
            f"{self.conversions} conversions, {self.float} float; {len(self.portable)} ops left to the portable runtime"
        )
        counted = Counter(self.kernels)
        width = max((len(kernel.name) for kernel in counted), default=0)
        for kernel, count in counted.items():
            kind = "integer" if kernel.integer else "convert" if kernel.conversion else "float"
            yield (
                f"  {count:>4} x {kernel.name:<{width}}  {kind:<7}  "
                f"{', '.join(kernel.inputs)} -> {', '.join(kernel.outputs)}"
            )
        for op in self.portable:
            yield f"  portable: {op.name}{f' at {op.source}' if op.source else ''}"
        for name, side in (("input", self.boundary.inputs), ("output", self.boundary.outputs)):
            for index, qparams in enumerate(side):
                if qparams is not None:
                    yield f"  {name} {index}: {qparams.dtype}, scale {qparams.scale}, zero point {qparams.zero_point}"


def lowering_report(program: Executable) -> LoweringReport:
    """Say what a program consists of.

    Raises:
        LoweringError: The program cannot be decoded.
        MissingDependencyError: The runtime is not installed.
    """
    delegation = program.delegation()
    sources = delegation.sources or ("",) * len(delegation.non_delegated)
    return LoweringReport(
        subgraphs=delegation.subgraphs,
        kernels=program.kernels(),
        portable=tuple(
            PortableOp(name=name, source=source) for name, source in zip(delegation.non_delegated, sources, strict=True)
        ),
        size=program.size,
        boundary=getattr(program, "boundary", Boundary()),
    )


def _plain(qparams: BoundaryQParams | None) -> dict[str, Any] | None:
    if qparams is None:
        return None
    return {"scale": qparams.scale, "zero_point": qparams.zero_point, "dtype": str(qparams.dtype)}
