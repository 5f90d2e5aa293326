"""The runtimes that run x86 models: the columns of the table."""

from __future__ import annotations

from enum import Enum

from quantizer_sdk.errors import RuleError

__all__ = ["Target"]


class Target(Enum):
    """What a model is quantized for.

    ONEDNN are oneDNN's kernels called from eager PyTorch, INDUCTOR the same ones in code that torch.compile makes,
    ONNXRUNTIME the CPU kernels of ONNX Runtime.
    """

    ONEDNN = "onednn"
    INDUCTOR = "inductor"
    ONNXRUNTIME = "onnxruntime"

    @classmethod
    def named(cls, name: str | Target) -> Target:
        """Return the target of this name.

        Raises:
            RuleError: There is none.
        """
        try:
            return cls(name)
        except ValueError as e:
            message = f"target={name!r}; expected one of {', '.join(target.value for target in cls)}"
            raise RuleError(message) from e
