"""What observers and fake quantizers have in common as modules: factories, and state whose shape data decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["ObserverFactory", "QParamsModule"]


class ObserverFactory:
    """An observer class with some of its arguments, made by `with_args`.

    Equal where class and arguments are equal, and to the class itself where there are no arguments.
    """

    def __init__(self, constructor: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> None:
        self.constructor = constructor
        self.arguments = dict(arguments)

    def with_args(self, **arguments: Any) -> ObserverFactory:
        """Return a factory with further arguments; the later one wins."""
        return ObserverFactory(self.constructor, {**self.arguments, **arguments})

    def __call__(self, **arguments: Any) -> nn.Module:
        """Make the observer."""
        return self.constructor(**{**self.arguments, **arguments})

    def __eq__(self, other: object) -> bool:
        if isinstance(other, type):
            return self.constructor is other and not self.arguments
        if not isinstance(other, ObserverFactory):
            return NotImplemented
        return self.constructor is other.constructor and self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash((self.constructor, tuple(sorted(self.arguments))) if self.arguments else self.constructor)

    def __repr__(self) -> str:
        name = getattr(self.constructor, "__name__", repr(self.constructor))
        return f"{name}.with_args({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


class QParamsModule(nn.Module):
    """A module that can say which qparams suit a tensor.

    Attributes:
        scale_floor: Smallest scale by channel, float32 [1] or [channels]; passes set it where kernels need one.
    """

    scale_floor: torch.Tensor | None

    @classmethod
    def with_args(cls, **arguments: Any) -> ObserverFactory:
        """Return a factory of this class with these arguments, as specs take it."""
        return ObserverFactory(cls, arguments)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take buffers of any shape: before the first data they are empty or of one element, then one a channel."""
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape != buffer.shape:
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
