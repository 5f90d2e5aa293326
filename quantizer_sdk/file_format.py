"""The kinds of file that a backend ships models in, and how the SDK's tools find them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule

    from quantizer_sdk.quantizer import Quantizer

__all__ = ["FileFormat", "FileReport", "Save"]


class FileReport(Protocol):
    """What a runtime makes of a file, as text by `str` and as JSON."""

    def to_json(self) -> str:
        """Return the report as JSON text."""
        ...


class Save(Protocol):
    """Writes a converted model to a file that a runtime loads."""

    def __call__(
        self, model: GraphModule, example_inputs: Sequence[torch.Tensor], path: Path, *, dynamic_shapes: Any = None
    ) -> FileReport:
        """Write the file.

        Args:
            model: A converted module that takes its tensors by position.
            example_inputs: Tensors in the model's own shapes and dtypes.
            path: Of the file.
            dynamic_shapes: As `torch.export.export` takes it.

        Returns:
            What the runtime makes of it.

        Raises:
            LoweringError: The runtime refuses the model.
            MissingDependencyError: It is not installed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """One kind of file, for one runtime.

    Attributes:
        runtime: What loads it, in words.
        quantizer: Returns a fresh quantizer for that runtime's kernels.
        save: Writes it.
    """

    runtime: str
    quantizer: Callable[[], Quantizer]
    save: Save
