"""An ONNX model under construction: unique names, constants as initializers, one call a node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from quantizer_sdk.errors import MissingDependencyError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["OPSET", "OnnxGraph", "importing"]

OPSET = 20
"""Of ONNX's operators. From 21 on, ORT 1.32 fails to load some sessions in which moves follow a dequantize of int8."""

_IR_VERSION = 10


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Guard imports of onnxruntime, onnx and onnx_ir: a failed one names the extra to install.

    Raises:
        MissingDependencyError: An import inside the block failed.
    """
    try:
        yield
    except ImportError as e:
        message = f'the ONNX Runtime backend needs its extra: pip install "quantizer-sdk[onnx]" (importing failed: {e})'
        raise MissingDependencyError(message) from e


class OnnxGraph:
    """Collects the nodes of one graph, in order of execution."""

    def __init__(self) -> None:
        with importing():
            import onnx_ir

        self._ir = onnx_ir
        self._inputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._initializers: list[ir.Value] = []
        self._taken: set[str] = set()

    def input(self, name: str, tensor: torch.Tensor) -> ir.Value:
        """Add a graph input with a tensor's shape and dtype; symbolic sizes become named dimensions.

        Raises:
            TypeError: The dtype is none of numpy's.
        """
        value = self._ir.val(self._unique(name), self._dtype(tensor), self._shape(tensor))
        self._inputs.append(value)
        return value

    def constant(self, name: str, tensor: torch.Tensor) -> ir.Value:
        """Add an initializer; the tensor is not copied."""
        array = tensor.detach().contiguous().numpy()
        content = self._ir.tensor(array, name=self._unique(name))
        value = self._ir.val(content.name, const_value=content)
        self._initializers.append(value)
        return value

    def call(self, name: str, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one result, named after `name`; None stands for an operand that is left out."""
        given = {key: value for key, value in attributes.items() if value is not None}
        operands = list(inputs)
        while operands and operands[-1] is None:  # ORT 1.32 crashes on a layer norm whose last operand is named ""
            operands.pop()
        node = self._ir.node(operator, operands, given, name=self._unique(name))
        (result,) = node.outputs
        result.name = str(node.name)
        self._nodes.append(node)
        return result

    def to_bytes(self, outputs: Sequence[tuple[ir.Value, torch.Tensor]]) -> bytes:
        """Return the model that gives these values; each tensor tells the type and shape of its value.

        Raises:
            ValueError: The model exceeds protobuf's 2 GB.
        """
        results: list[ir.Value] = []
        for value, tensor in outputs:
            plain = value.producer() is not None and all(value is not other for other in results)
            result = value if plain else self.call("output", "Identity", value)
            result.dtype, result.shape = self._dtype(tensor), self._shape(tensor)
            results.append(result)
        graph = self._ir.Graph(
            self._inputs,
            results,
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports={"": OPSET},
            name="model",
        )
        model = self._ir.Model(graph, ir_version=_IR_VERSION, producer_name="quantizer_sdk")
        return bytes(self._ir.to_proto(model).SerializeToString())

    def _dtype(self, tensor: torch.Tensor) -> ir.DataType:
        return self._ir.DataType.from_numpy(torch.empty(0, dtype=tensor.dtype).numpy().dtype)

    def _shape(self, tensor: torch.Tensor) -> ir.Shape:
        return self._ir.Shape([size if isinstance(size, int) else str(size) for size in tensor.shape])

    def _unique(self, name: str) -> str:
        base, count = name, 1
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        return name
