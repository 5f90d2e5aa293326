"""One call of the exported graph on its way to ONNX: its arguments by name, and refusals that name it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onnxruntime.exported import arguments
from quantizer_sdk.errors import LoweringError

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.onnx_graph import OnnxGraph

__all__ = ["Call"]


class Call:
    """A node with what its translation needs.

    Args:
        graph: The ONNX graph so far.
        node: A call of an op overload.
        values: The ONNX value of each node before it; constants join when they are first used.
        constants: The tensors of the nodes that stand for one.

    Attributes:
        node: As given.
        args: The arguments by their names in the op's schema, defaults included; tensors are nodes.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        node: Node,
        values: dict[Node, ir.Value],
        constants: Mapping[Node, torch.Tensor],
    ) -> None:
        self._graph, self._values, self._constants = graph, values, constants
        self.node = node
        self.args = arguments(node)

    def refuse(self, reason: str) -> LoweringError:
        """Return the error that says which call cannot be translated and why."""
        return LoweringError(f"{self.node.name} ({self.node.target}) has no translation to ONNX: {reason}")

    def value(self, argument: Any) -> ir.Value:
        """Return the ONNX value of a tensor argument: a node, or a number in a tensor's place.

        Raises:
            LoweringError: It is neither, or it was not translated.
        """
        if isinstance(argument, (int, float)):
            return self.constant("number", torch.tensor(float(argument)))
        if not isinstance(argument, Node):
            raise self.refuse(f"an operand is {argument!r}; expected a tensor")
        if argument not in self._values:
            if argument not in self._constants:
                raise self.refuse(f"its operand {argument.name} is no tensor")
            self._values[argument] = self._graph.constant(argument.name, self._constants[argument])
        return self._values[argument]

    def optional(self, name: str) -> ir.Value | None:
        """Return the value of an optional tensor argument."""
        return None if self.args[name] is None else self.value(self.args[name])

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
        return self._graph.constant(f"{self.node.name}_{what}", tensor)

    def int64(self, what: str, numbers: list[int]) -> ir.Value:
        """Add an int64 vector: how ONNX takes shapes, axes and pads."""
        return self.constant(what, torch.tensor(numbers, dtype=torch.int64))

    def emit(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add an ONNX node; attributes of None are left out."""
        return self._graph.call(self.node.name, operator, *inputs, **attributes)
