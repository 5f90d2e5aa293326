"""Any ONNX file, op by op: what ONNX Runtime computes on integers, what in float, and why."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantizer_sdk.backends.onnxruntime.float_reasons import Reasons
from quantizer_sdk.backends.onnxruntime.kernels import decode_graph, multiplies_integers
from quantizer_sdk.backends.onnxruntime.onnx_graph import importing
from quantizer_sdk.backends.onnxruntime.runtime import read_model, recommended, reporting
from quantizer_sdk.backends.onnxruntime.session import OPTIMIZED, SessionSettings, open_session
from quantizer_sdk.backends.onnxruntime.translate import MODULE_KEY, SOURCE_KEY
from quantizer_sdk.errors import LoweringError

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backend import Kernel

__all__ = ["InspectedOp", "Inspection", "State", "inspect_onnx"]


class State(Enum):
    """What the runtime makes of an op."""

    INTEGER = "integer"
    """It computes on integers; a product of integers may give float."""
    CONVERT = "convert"
    """It only turns floats into integers, or back."""
    MOVE = "move"
    """It only puts elements elsewhere, or computes sizes."""
    FLOAT = "float"
    """It computes in float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedOp:
    """One node that the runtime executes.

    Attributes:
        name: The node's name in the optimized graph.
        operator: Such as "QLinearConv".
        state: What it computes on.
        inputs: The data types of its operands, scales and zero points left out.
        outputs: The same of its results.
        why: Why it is no integer kernel; "" for all that is none of float.
        module: The path of the user's module, where the file says it.
        source: The user's line, where the file says it.
    """

    name: str
    operator: str
    state: State
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    why: str = ""
    module: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What ONNX Runtime makes of a file on this machine, under the recommended session options.

    Attributes:
        path: Of the file.
        size: Its bytes.
        producer: What wrote it, with its version.
        opsets: The versions of the operators, by domain; "" is ONNX's own.
        ops: The nodes, in order of execution.
    """

    path: str
    size: int
    producer: str
    opsets: tuple[tuple[str, int], ...]
    ops: tuple[InspectedOp, ...]

    def count(self, state: State) -> int:
        """Return the number of nodes in this state."""
        return sum(op.state is state for op in self.ops)

    def to_dict(self) -> dict[str, Any]:
        """Return totals and nodes as plain data."""
        return {
            "path": self.path,
            "size": self.size,
            "producer": self.producer,
            "opsets": dict(self.opsets),
            "totals": {state.value: self.count(state) for state in State},
            "ops": [
                {**dataclasses.asdict(op), "state": op.state.value, "inputs": [*op.inputs], "outputs": [*op.outputs]}
                for op in self.ops
            ],
        }

    def to_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        totals = ", ".join(f"{self.count(state)} {state.value}" for state in State)
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opsets)
        yield f"{self.path}: {self.size:,} bytes, {self.producer or 'unknown producer'}, {opsets}"
        yield f"{len(self.ops)} nodes run: {totals}"
        counted = Counter((op.state.value, op.operator, op.inputs[:2], op.outputs[:1]) for op in self.ops)
        width = max((len(op.operator) for op in self.ops), default=0)
        order = [state.value for state in State]
        for (state, operator, inputs, outputs), count in sorted(
            counted.items(), key=lambda item: order.index(item[0][0])
        ):
            yield f"  {count:>4} x {operator:<{width}}  {state:<7}  {', '.join(inputs)} -> {', '.join(outputs)}"
        floats = [op for op in self.ops if op.state is State.FLOAT]
        if floats:
            yield "in float, and why:"
        for op in floats:
            where = "; ".join(part for part in (op.module, op.source) if part)
            yield f"  {op.operator} {op.name}{f' ({where})' if where else ''}: {op.why}"


def inspect_onnx(path: str | Path, settings: SessionSettings | None = None) -> Inspection:
    """Say of each node of an ONNX file whether ONNX Runtime computes it on integers, and else why not.

    The file may be of any producer, quantized in any form or float; it is loaded, not run.

    Args:
        path: Of the file.
        settings: How the session is set up; None takes the recommended ones.

    Raises:
        LoweringError: The file cannot be read, is no ONNX model, or the runtime cannot load it.
        MissingDependencyError: onnxruntime, onnx or onnx_ir is not installed.
    """
    with importing():
        import onnx
        import onnx_ir
    size = len(read_model(path))
    try:
        original = onnx_ir.from_proto(onnx.load(str(path), load_external_data=False))
    except Exception as e:  # protobuf's errors have no public base class that all its versions share
        raise LoweringError(f"{path} is no ONNX model: {e}") from e
    with tempfile.TemporaryDirectory() as folder, reporting(f"load {path}"):
        optimized = Path(folder, OPTIMIZED)
        open_session(str(path), recommended(settings), optimized)
        model = onnx_ir.from_proto(onnx.load(str(optimized), load_external_data=False))
    reasons = Reasons(model.graph)
    origins = {node.name: node.metadata_props for node in original.graph}
    ops = tuple(_inspected(node, kernel, reasons, origins) for node, kernel in decode_graph(model.graph))
    producer = " ".join(part for part in (original.producer_name, original.producer_version) if part)
    opsets = tuple(sorted(original.graph.opset_imports.items()))
    return Inspection(path=str(path), size=size, producer=producer, opsets=opsets, ops=ops)


def _inspected(node: ir.Node, kernel: Kernel, reasons: Reasons, origins: dict[str | None, Any]) -> InspectedOp:
    state = _state(kernel, reasons.computes(node))
    origin = origins.get(node.name) or node.metadata_props
    return InspectedOp(
        name=node.name or "",
        operator=node.op_type,
        state=state,
        inputs=kernel.inputs,
        outputs=kernel.outputs,
        why=reasons.why(node) if state is State.FLOAT else "",
        module=origin.get(MODULE_KEY, ""),
        source=origin.get(SOURCE_KEY, ""),
    )


def _state(kernel: Kernel, computes: bool) -> State:
    if kernel.conversion:
        return State.CONVERT
    if not computes or all(kind == "int64" for kind in (*kernel.inputs, *kernel.outputs)):
        return State.MOVE
    return State.INTEGER if kernel.integer or multiplies_integers(kernel) else State.FLOAT
