"""An ONNX model under construction: unique names, constants as initializers, one call a node."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from quantizer_sdk.errors import MissingDependencyError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CONTRIB", "OPSET", "OnnxGraph", "importing"]

OPSET = 20
"""Of ONNX's operators. From 21 on, ORT 1.32 fails to load some sessions in which moves follow a dequantize of int8."""

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_IR_VERSION = 10
_SYMBOL = re.compile(r"\b[su]\d+\b")
_PRODUCER = "quantizer_sdk"
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""These stand beside the op of the user's that they belong to, and say nothing of their own."""

_SHARED_SIZE = 4096
"""The most numbers of a constant that is compared with those before it."""


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
    """Collects the nodes of one graph, in order of execution.

    Attributes:
        contrib: Whether operators of ONNX Runtime's own domain may be used.
        origin: What the nodes added from now on say of where they come from.
        widened: What some values were before a Cast to a type that holds all their numbers.
    """

    def __init__(self, *, contrib: bool = True) -> None:
        with importing():
            import onnx_ir

        self.contrib = contrib
        self.origin: Mapping[str, str] = {}
        self.widened: dict[ir.Value, ir.Value] = {}
        self._ir = onnx_ir
        self._opset = OPSET
        self._inputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._initializers: list[ir.Value] = []
        self._shared: dict[tuple[Any, ...], ir.Value] = {}
        self._taken: set[str] = set()

    def require_opset(self, version: int) -> None:
        """Raise the version of the operators to at least this one."""
        self._opset = max(self._opset, version)

    def input(self, name: str, tensor: torch.Tensor, names: Mapping[str, str] | None = None) -> ir.Value:
        """Add a graph input with a tensor's shape and dtype; symbolic sizes become dimensions, named by `names`."""
        value = self._ir.val(self._unique(name), self.dtype(tensor.dtype), self._shape(tensor, names or {}))
        self._inputs.append(value)
        return value

    def constant(self, name: str, tensor: torch.Tensor) -> ir.Value:
        """Return an initializer of these numbers: a new one, whose tensor is not copied, or a small one that is there.

        A quantize and the dequantizes behind it share their scale and zero point.
        """
        from onnx_ir.tensor_adapters import TorchTensor

        found = tensor.detach().contiguous()
        if found.numel() > _SHARED_SIZE:
            return self._stored(TorchTensor(found, name=self._unique(name)))
        key = (found.dtype, tuple(found.shape), found.reshape(-1).view(torch.uint8).numpy().tobytes())
        if key not in self._shared:
            self._shared[key] = self._stored(TorchTensor(found, name=self._unique(name)))
        return self._shared[key]

    def constant_int4(self, name: str, codes: torch.Tensor) -> ir.Value:
        """Add an initializer of 4-bit integers, two a byte.

        Args:
            name: Of the initializer.
            codes: int8, within -8..7.
        """
        import ml_dtypes

        self.require_opset(21)
        array = codes.contiguous().numpy().astype(ml_dtypes.int4)
        return self._stored(self._ir.Tensor(array, dtype=self._ir.DataType.INT4, name=self._unique(name)))

    def call(self, name: str, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one result, named after `name`; None stands for an operand that is left out.

        An operator may name its domain, as in "com.microsoft::MatMulNBits".
        """
        (result,) = self.calls(name, operator, 1, *inputs, **attributes)
        return result

    def calls(
        self, name: str, operator: str, results: int, *inputs: ir.Value | None, **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """Add a node with several results; else as `call`."""
        given = {key: value for key, value in attributes.items() if value is not None}
        operands = list(inputs)
        while operands and operands[-1] is None:  # ORT 1.32 crashes on a layer norm whose last operand is named ""
            operands.pop()
        domain, _, kind = operator.rpartition("::")
        node = self._ir.node(
            kind,
            operands,
            given,
            domain=domain,
            num_outputs=results,
            name=self._unique(name),
            metadata_props={} if kind in _CONVERSIONS else dict(self.origin),
        )
        for place, result in enumerate(node.outputs):
            result.name = str(node.name) if place == 0 else self._unique(f"{node.name}_{place}")
        self._nodes.append(node)
        return tuple(node.outputs)

    def to_bytes(
        self,
        outputs: Sequence[tuple[ir.Value, torch.Tensor]],
        names: Mapping[str, str] | None = None,
        output_names: Sequence[str] = (),
    ) -> bytes:
        """Return the model that gives these values, without the nodes that none of them needs.

        Args:
            outputs: Each with a tensor of its type and shape.
            names: Of the symbols in shapes.
            output_names: Of the outputs; empty for those of their values.

        Raises:
            ValueError: The model exceeds protobuf's 2 GB.
        """
        results: list[ir.Value] = []
        for place, (value, tensor) in enumerate(outputs):
            plain = value.producer() is not None and all(value is not other for other in results)
            result = value if plain else self.call("output", "Identity", value)
            result.dtype, result.shape = self.dtype(tensor.dtype), self._shape(tensor, names or {})
            if output_names:
                result.name = output_names[place]
            results.append(result)
        graph = self._ir.Graph(
            self._inputs,
            results,
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports={"": self._opset},
            name="model",
        )
        self._drop_unused(graph)
        if any(node.domain == CONTRIB for node in graph):
            graph.opset_imports[CONTRIB] = 1
        model = self._ir.Model(graph, ir_version=_IR_VERSION, producer_name=_PRODUCER, producer_version=_version())
        proto = self._ir.to_proto(model)
        described = [info for info in proto.graph.value_info if info.name not in graph.initializers]
        del proto.graph.value_info[:]  # initializers say their types themselves
        proto.graph.value_info.extend(described)
        return bytes(proto.SerializeToString())

    def _drop_unused(self, graph: ir.Graph) -> None:
        """Drop nodes and initializers without a use: dequantizes of what an integer operator took as it was."""
        for node in reversed(list(graph)):
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                graph.remove(node, safe=True)
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[name]

    def _stored(self, content: Any) -> ir.Value:
        value = self._ir.val(content.name, const_value=content)
        self._initializers.append(value)
        return value

    def dtype(self, dtype: torch.dtype) -> ir.DataType:
        """Return ONNX's name of a dtype; its number is what Cast takes."""
        from onnx_ir.tensor_adapters import from_torch_dtype

        return from_torch_dtype(dtype)

    def no_axes(self) -> ir.Shape:
        """Return the shape of a scalar."""
        return self._ir.Shape([])

    def _shape(self, tensor: torch.Tensor, names: Mapping[str, str]) -> ir.Shape:
        sizes = [size if isinstance(size, int) else _SYMBOL.sub(_named(names), str(size)) for size in tensor.shape]
        return self._ir.Shape(sizes)

    def _unique(self, name: str) -> str:
        base, count = name, 1
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        return name


def _named(names: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    """Return what gives a symbol in a size its name."""
    return lambda symbol: names.get(symbol[0], symbol[0])


def _version() -> str:
    try:
        return importlib.metadata.version("quantizer-sdk")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
