"""What a backend offers the SDK's tools, and how it is found: entry points in the group `quantizer_sdk.backends`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from quantizer_sdk.errors import BackendError

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule

    from quantizer_sdk.quantizer import Quantizer

__all__ = ["ENTRY_POINT_GROUP", "Backend", "Delegation", "Executable", "Kernel", "backend_names", "find_backend"]

ENTRY_POINT_GROUP = "quantizer_sdk.backends"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One node that the runtime executes, as read back from the lowered program, not from the graph that went in.

    Attributes:
        name: The runtime's own name of the node, such as "Conv2d".
        inputs: The runtime's names of the operands' data types, constants included.
        outputs: The same for the results.
        integer: Whether the node computes on integers: every operand and result but a float bias is an integer tensor.
        conversion: Whether the node only converts between float and integer (quantize, dequantize).
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integer: bool
    conversion: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """How much of a program the backend took.

    Attributes:
        subgraphs: Number of delegated subgraphs.
        delegated: Number of graph nodes inside them.
        non_delegated: Names of the operators left outside, one for each node, in graph order.
    """

    subgraphs: int
    delegated: int
    non_delegated: tuple[str, ...]


@runtime_checkable
class Executable(Protocol):
    """A lowered program that runs on the backend's real kernels and can name them."""

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the program and return its outputs."""
        ...

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the nodes that the runtime executes, in order."""
        ...

    def delegation(self) -> Delegation:
        """Return what the backend took and what it left to the portable runtime."""
        ...

    def save(self, path: str | Path) -> None:
        """Write the program to a file."""
        ...

    @property
    def size(self) -> int:
        """The program's size in bytes."""
        ...


@runtime_checkable
class Backend(Protocol):
    """One target: the quantizer that annotates for it and the lowering that runs the result."""

    @property
    def name(self) -> str:
        """The name of its entry point."""
        ...

    def quantizer(self, **options: Any) -> Quantizer:
        """Return a fresh quantizer with the backend's default configuration."""
        ...

    def lower(
        self,
        model: GraphModule,
        example_inputs: Sequence[torch.Tensor],
        *,
        dynamic_shapes: Any = None,
        integer_io: bool = False,
    ) -> Executable:
        """Turn a float or a converted model into a program for the backend's runtime."""
        ...


def backend_names() -> tuple[str, ...]:
    """Return the names of the installed backends, sorted."""
    return tuple(sorted(point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)))


def find_backend(name: str) -> Backend:
    """Load the backend with this entry-point name.

    Raises:
        BackendError: No backend has this name, or what its entry point names is no backend.
        MissingDependencyError: The backend's runtime is not installed.
    """
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            backend = point.load()
            if not isinstance(backend, Backend):
                message = f"entry point {name!r} ({point.value}) is a {type(backend).__name__}; expected a Backend"
                raise BackendError(message)
            return backend
    message = f"no backend {name!r}; installed: {', '.join(backend_names()) or 'none'}"
    raise BackendError(message)
