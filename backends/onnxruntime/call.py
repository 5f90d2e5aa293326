"""One call of the exported graph on its way to ONNX: its arguments by name, and refusals that name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.fx import Node

from quantizer_sdk.backends.onnxruntime.exported import arguments
from quantizer_sdk.errors import LoweringError

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.onnx_graph import OnnxGraph

__all__ = ["Call", "Results"]

Results: TypeAlias = "ir.Value | tuple[ir.Value, ...]"


class Call:
    """A node with what its translation needs.

    Args:
        graph: The ONNX graph so far.
        node: A call of an op overload, or of one of Python's operators on sizes.
        values: The ONNX value of each node before it; constants join when they are first used.
        constants: The tensors of the nodes that stand for one.

    Attributes:
        graph: As given.
        node: As given.
        args: The arguments by their names in the op's schema, defaults included; tensors are nodes.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        node: Node,
        values: dict[Node, Results],
        constants: Mapping[Node, torch.Tensor],
    ) -> None:
        self.graph, self._values, self._constants = graph, values, constants
        self.node = node
        self.args = arguments(node)

    def refuse(self, reason: str) -> LoweringError:
        """Return the error that says which call cannot be translated and why."""
        return LoweringError(f"{self.node.name} ({self.node.target}) has no translation to ONNX: {reason}")

    @property
    def operand(self) -> Any:
        """The first tensor, which schemas call `self` or `input`."""
        return self.args["self"] if "self" in self.args else self.args["input"]

    def value(self, argument: Any, dtype: torch.dtype | None = None) -> ir.Value:
        """Return the ONNX value of a tensor argument: a node, or a number in a tensor's place.

        Args:
            argument: The node or number; a size that is computed at run time is a tensor of no axes.
            dtype: What to convert it to; None leaves a tensor as it is and makes numbers float32.

        Raises:
            LoweringError: It is neither, or it was not translated.
        """
        if isinstance(argument, (bool, int, float)):
            number = torch.tensor(argument, dtype=torch.float32 if dtype is None else dtype)
            return self.constant("number", number)
        if not isinstance(argument, Node):
            raise self.refuse(f"an operand is {argument!r}; expected a tensor")
        if argument not in self._values:
            if argument not in self._constants:
                raise self.refuse(f"its operand {argument.name} is no tensor")
            self._values[argument] = self.graph.constant(argument.name, self._constants[argument])
        found = self._values[argument]
        if isinstance(found, tuple):
            raise self.refuse(f"its operand {argument.name} has several results")
        return found if dtype is None or dtype is dtype_of(argument) else self.cast(found, dtype)

    def optional(self, name: str) -> ir.Value | None:
        """Return the value of an optional tensor argument."""
        return None if self.args[name] is None else self.value(self.args[name])

    def is_constant(self, argument: Any) -> bool:
        """Whether an argument is a tensor of the model's."""
        return argument in self._constants

    def stored(self, argument: Any) -> torch.Tensor | None:
        """Return the tensor that an argument stands for; None where it is computed at run time."""
        return self._constants.get(argument) if isinstance(argument, Node) else None

    def tensor(self, name: str) -> torch.Tensor:
        """Return the tensor that a constant argument stands for.

        Raises:
            LoweringError: It is computed at run time.
        """
        argument = self.args[name]
        if argument not in self._constants:
            raise self.refuse(f"{name} is computed at run time; expected a constant")
        return self._constants[argument]

    def integers(self, name: str, count: int = 1) -> list[int]:
        """Return an argument of one or more integers, a single one repeated.

        Raises:
            LoweringError: One is computed at run time.
        """
        argument = self.args[name]
        found = list(argument) if isinstance(argument, (list, tuple)) else [argument]
        if not all(isinstance(item, int) for item in found):
            raise self.refuse(f"{name}={argument} is computed at run time; expected numbers")
        return found * count if len(found) == 1 else found

    def axes(self, name: str = "dim") -> list[int]:
        """Return an argument of axes, counted from the front; all axes where it names none."""
        rank = self.example(self.operand).dim()
        found = self.args.get(name)
        chosen = list(found) if isinstance(found, (list, tuple)) else [] if found is None else [found]
        return sorted(axis % rank for axis in chosen or range(rank)) if rank else []

    def require(self, **accepted: Any) -> None:
        """Refuse other values of these arguments, where the op has them."""
        for name, value in accepted.items():
            if name in self.args and self.args[name] != value:
                raise self.refuse(f"{name}={self.args[name]}; expected {name}={value}")

    def example(self, argument: Any = None) -> torch.Tensor:
        """Return the fake tensor of an argument, or of the result: its shape, with symbols in it, and dtype."""
        value = (self.node if argument is None else argument).meta["val"]
        assert isinstance(value, torch.Tensor)
        return value

    def constant(self, what: str, tensor: torch.Tensor) -> ir.Value:
        """Add an initializer that belongs to this call."""
        return self.graph.constant(f"{self.node.name}_{what}", tensor)

    def int64(self, what: str, numbers: Sequence[int]) -> ir.Value:
        """Add an int64 vector: how ONNX takes shapes, axes and pads."""
        return self.constant(what, torch.tensor(list(numbers), dtype=torch.int64))

    def vector(self, what: str, sizes: Sequence[Any]) -> ir.Value:
        """Return an int64 vector of sizes, of which some may be computed at run time."""
        parts: list[ir.Value] = []
        known: list[int] = []
        place = 0
        while place < len(sizes):
            size = sizes[place]
            if isinstance(size, int):
                known.append(size)
                place += 1
                continue
            if known:
                parts.append(self.int64(what, known))
                known = []
            length = _run_of_sizes(sizes[place:])
            if length:
                source, axis = size.args
                parts.append(self.emit("Shape", self.value(source), start=axis, end=axis + length))
            else:
                parts.append(self.emit("Unsqueeze", self.value(size, torch.int64), self.int64("axis", [0])))
            place += max(length, 1)
        if known or not parts:
            parts.append(self.int64(what, known))
        return parts[0] if len(parts) == 1 else self.emit("Concat", *parts, axis=0)

    def emit(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add an ONNX node; attributes of None are left out."""
        return self.graph.call(self.node.name, operator, *inputs, **attributes)

    def emits(self, operator: str, results: int, *inputs: ir.Value | None, **attributes: Any) -> tuple[ir.Value, ...]:
        """Add an ONNX node of several results."""
        return self.graph.calls(self.node.name, operator, results, *inputs, **attributes)

    def cast(self, value: ir.Value, dtype: torch.dtype) -> ir.Value:
        """Convert a value; one that `widen` made of that type is taken as it was."""
        wanted = self.graph.dtype(dtype)
        source = self.graph.widened.get(value)
        if source is not None and source.dtype is wanted:
            return source
        return self.emit("Cast", value, to=int(wanted))

    def widen(self, value: ir.Value, dtype: torch.dtype) -> ir.Value:
        """Convert a value whose dtype is known to one that holds all its numbers; `cast` finds the way back."""
        wanted = self.graph.dtype(dtype)
        if value.dtype is wanted:
            return value
        result = self.emit("Cast", value, to=int(wanted))
        self.graph.widened[result] = value
        return result

    def scalar(self, argument: Any, dtype: torch.dtype) -> ir.Value:
        """Return a tensor of one element, or a number, as a tensor without axes; a stored one as a constant."""
        if isinstance(argument, (int, float)):
            return self.constant("scalar", torch.tensor(argument, dtype=dtype))
        stored = self.stored(argument)
        if stored is not None:
            return self.constant("scalar", stored.reshape(()).to(dtype))
        value = self.look_through(argument)
        if value.shape is None or len(value.shape):
            value = self.emit("Reshape", self.value(argument, torch.float32), self.int64("scalar", []))
        return (
            value
            if value.dtype is self.graph.dtype(dtype)
            else self.emit("Cast", value, to=int(self.graph.dtype(dtype)))
        )

    def look_through(self, argument: Node) -> ir.Value:
        """Return the value behind the Casts and Reshapes that give run-time qparams the form which aten says."""
        value = self.value(argument)
        value = self.graph.widened.get(value, value)
        producer = value.producer()
        if producer is not None and producer.op_type == "Reshape" and producer.inputs[0] is not None:
            source = producer.inputs[0]
            value = source if source.dtype is not None and source.shape == self.graph.no_axes() else value
        return value


def dtype_of(node: Node) -> torch.dtype | None:
    """Return the dtype of a node's value; int64 for a size."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return value.dtype
    kinds = {torch.SymInt: torch.int64, torch.SymFloat: torch.float32, torch.SymBool: torch.bool}
    return kinds.get(type(value), torch.int64 if isinstance(value, int) else None)


def _run_of_sizes(sizes: Sequence[Any]) -> int:
    """Return how many of the sizes, from the first, are those of neighbouring axes of one tensor."""
    count = 0
    for size in sizes:
        if not isinstance(size, Node) or size.target is not torch.ops.aten.sym_size.int:
            break
        first = sizes[0].args
        if size.args != (first[0], first[1] + count):
            break
        count += 1
    return count
