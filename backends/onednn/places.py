"""Where a module has its tensors, and whether they are what they were."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Kept", "Places"]


class Places:
    """Where a module has what it reads."""

    def __init__(self) -> None:
        self._known: set[tuple[int, str]] = set()
        self._owners: list[dict[str, Any]] = []
        self._keys: list[str] = []
        self._objects: list[Any] = []

    def read(self, module: nn.Module, target: str) -> Any:
        """Return what is at a path, and note each place on the way."""
        found: Any = module
        for key in target.split("."):
            held = (found._modules, found._parameters, found._buffers, found.__dict__)
            owner = next(owner for owner in held if key in owner)
            found = owner[key]
            if (id(owner), key) not in self._known:
                self._known.add((id(owner), key))
                self._owners.append(owner)
                self._keys.append(key)
                self._objects.append(found)
        return found

    def hold(self) -> bool:
        """Whether all is still there."""
        return all(map(operator.is_, map(dict.get, self._owners, self._keys), self._objects))


class Kept:
    """Tensors of which something was made: whether they are still what they were."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tuple({id(tensor): tensor for tensor in tensors}.values())
        self._counted = tuple(tensor for tensor in self._tensors if not tensor.is_inference())
        self._versions, self._pointers = self._state()

    def _state(self) -> tuple[list[int], list[int]]:
        # torch has no public name for how often a tensor was written into
        return list(map(_VERSION, self._counted)), list(map(Tensor.data_ptr, self._tensors))

    def hold(self) -> bool:
        """Whether nobody has written into them, or moved them."""
        return self._state() == (self._versions, self._pointers)


_VERSION = operator.attrgetter("_version")
