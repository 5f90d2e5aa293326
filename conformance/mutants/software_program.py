"""What programs in software have in common: they are the graph itself, and all of it is delegated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from torch.fx import GraphModule

from quantizer_sdk.backend import Delegation, Kernel

__all__ = ["SoftwareProgram"]


class SoftwareProgram(ABC):
    """A converted graph that is run as it is.

    Args:
        model: The graph.
    """

    def __init__(self, model: GraphModule) -> None:
        self.model = model

    @abstractmethod
    def kernels(self) -> tuple[Kernel, ...]:
        """Return the kernels in order of execution."""

    def delegation(self) -> Delegation:
        """Return all as delegated."""
        return Delegation(subgraphs=1, delegated=len(self.kernels()), non_delegated=())

    def save(self, path: str | Path) -> None:
        """Write the graph's code."""
        Path(path).write_text(self.model.code)

    @property
    def size(self) -> int:
        """The length of the graph's code."""
        return len(self.model.code)
