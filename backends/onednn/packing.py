"""Weights in the layouts that oneDNN's kernels read, made when they are first needed and kept beside the model.

The model holds plain int8 tensors, so that it can be saved, copied and exported. What is made of them here lives as
long as they do and is made anew when one is written into.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["packed"]

_Form = TypeVar("_Form")


@dataclass(slots=True, eq=False)
class _Entry:
    """What was made of one tensor.

    Attributes:
        tensor: The tensor, weakly.
        version: How often it had been written into; None where torch does not count.
        pointer: Where its data was.
        forms: What was made of it, by key.
    """

    tensor: weakref.ref[Tensor]
    version: int | None
    pointer: int
    forms: dict[Hashable, Any] = field(default_factory=dict)


_ENTRIES: dict[int, _Entry] = {}


def packed(weight: Tensor, key: Hashable, make: Callable[[], _Form]) -> _Form:
    """Return what `make` gives for a weight and a key, made once for as long as the weight is not written into.

    Args:
        weight: What it is made of.
        key: Tells it from all else that is made of the same weight; static and dynamic use have keys of their own,
            since oneDNN's own packed forms crash when both share one.
        make: Makes it.
    """
    place = id(weight)
    entry = _ENTRIES.get(place)
    version = None if weight.is_inference() else weight._version  # torch has no public name for it
    if entry is None or entry.tensor() is not weight or entry.version != version or entry.pointer != weight.data_ptr():
        entry = _Entry(weakref.ref(weight, lambda dead: _forget(place, dead)), version, weight.data_ptr())
        _ENTRIES[place] = entry
    form: _Form | None = entry.forms.get(key)
    if form is None:
        with torch.inference_mode(mode=False), torch.no_grad():  # it serves callers of any mode
            form = entry.forms[key] = make()
    return form


def _forget(place: int, dead: weakref.ref[Tensor]) -> None:
    """Drop what was made of a tensor that is gone, unless another has its place by now."""
    entry = _ENTRIES.get(place)
    if entry is not None and entry.tensor is dead:
        del _ENTRIES[place]
