"""One element of calibration data, as a model takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.errors import CalibrationError

__all__ = ["Progress", "positional_inputs", "run_batch"]

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Wraps what is iterated over to show progress, such as `tqdm.tqdm`."""


def run_batch(model: GraphModule, batch: Any, index: int) -> Any:
    """Return what a model makes of a tensor, a tuple of positional inputs, or a dict of keyword inputs.

    Raises:
        CalibrationError: The batch is of another kind; names its index.
    """
    if isinstance(batch, dict):
        return model(**batch)
    return model(*_positional(batch, index))


def positional_inputs(model: GraphModule, batch: Any, index: int) -> tuple[Any, ...]:
    """Return a batch as an interpreter of the model's graph takes it.

    Raises:
        CalibrationError: The batch is of another kind, or has keywords that the model does not know.
    """
    if not isinstance(batch, dict):
        return _positional(batch, index)
    info = getattr(model.graph._codegen, "pytree_info", None)
    names = [node.name for node in model.graph.find_nodes(op="placeholder")] if info is None else info.orig_args
    if unknown := sorted(set(batch) - set(names)):
        message = f"calibration batch {index} has the inputs {', '.join(unknown)}; the model takes {', '.join(names)}"
        raise CalibrationError(message)
    return tuple(batch[name] for name in names if name in batch)


def _positional(batch: Any, index: int) -> tuple[Any, ...]:
    if isinstance(batch, torch.Tensor):
        return (batch,)
    if isinstance(batch, (tuple, list)):
        return tuple(batch)
    message = (
        f"calibration batch {index} is a {type(batch).__name__}; accepted are a tensor, a tuple of positional inputs, "
        "or a dict of keyword inputs"
    )
    raise CalibrationError(message)
