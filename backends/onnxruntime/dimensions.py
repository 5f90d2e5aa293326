"""The names that a user gave dynamic sizes, for the symbols that torch.export made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree

__all__ = ["dimension_names"]


def dimension_names(inputs: Sequence[Node], dynamic_shapes: Any) -> dict[str, str]:
    """Return the name of each symbol in the inputs' shapes for which `dynamic_shapes` has one.

    Args:
        inputs: The placeholders that the user feeds, in order.
        dynamic_shapes: As `torch.export.export` takes it: a `Dim` has a name, `Dim.DYNAMIC` has none.
    """
    names: dict[str, str] = {}
    if dynamic_shapes is None:
        return names
    specs = _pytree.tree_leaves(dynamic_shapes, is_leaf=_is_spec)
    for node, spec in zip(inputs, specs, strict=False):
        value = node.meta.get("val")
        if spec is None or not isinstance(value, torch.Tensor):
            continue
        parts = spec.items() if isinstance(spec, dict) else enumerate(spec)
        for axis, part in parts:
            size, name = value.shape[axis], getattr(part, "__name__", None)
            if name is not None and not isinstance(size, int) and not isinstance(part, int):
                names.setdefault(str(size), str(name))
    return names


def _is_spec(item: Any) -> bool:
    """Whether a part of `dynamic_shapes` is that of one tensor: None, or sizes by axis."""
    if item is None:
        return True
    if isinstance(item, dict):
        return all(isinstance(key, int) for key in item)
    if isinstance(item, (tuple, list)):
        return all(
            part is None or isinstance(part, int) or hasattr(part, "__name__") or not _is_container(part)
            for part in item
        )
    return False


def _is_container(item: Any) -> bool:
    return isinstance(item, (dict, tuple, list))
