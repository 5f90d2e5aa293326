"""One element of calibration data, as a model takes it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from quantizer_sdk.errors import CalibrationError, QuantizerError
from quantizer_sdk.provenance import value_of

__all__ = ["Progress", "positional_inputs", "run_batch", "says_what_misfits"]

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Wraps what is iterated over to show progress, such as `tqdm.tqdm`."""


def run_batch(model: GraphModule, batch: Any, index: int) -> Any:
    """Return what a model makes of a tensor, a tuple of positional inputs, or a dict of inputs by name.

    Raises:
        CalibrationError: The batch is of another kind, or not what the model was exported for; names its index.
    """
    args, kwargs = positional_inputs(model, batch, index), {}
    if isinstance(batch, dict):
        kwargs = {name: batch[name] for name in _keywords(model)}
        args = tuple(batch[name] for name in _names(model) if name not in kwargs)
    with says_what_misfits(model, batch, index):
        return model(*args, **kwargs)


def positional_inputs(model: GraphModule, batch: Any, index: int) -> tuple[Any, ...]:
    """Return a batch as an interpreter of the model's graph takes it.

    Raises:
        CalibrationError: The batch is of another kind, or a dict that has not the names of the model's inputs.
    """
    if isinstance(batch, torch.Tensor):
        return (batch,)
    if isinstance(batch, (tuple, list)):
        return tuple(batch)
    if not isinstance(batch, dict):
        message = (
            f"batch {index} is a {type(batch).__name__}; accepted are a tensor, a tuple of positional inputs, or a "
            "dict of inputs by name"
        )
        raise CalibrationError(message)
    names = _names(model)
    if batch.keys() != set(names):
        message = f"batch {index} has the inputs {', '.join(map(str, batch))}; the model takes {', '.join(names)}"
        raise CalibrationError(message)
    return tuple(batch[name] for name in names)


@contextlib.contextmanager
def says_what_misfits(model: GraphModule, batch: Any, index: int) -> Iterator[None]:
    """Where running a batch fails, say how it differs from what the model was exported for; else name the batch alone.

    Nothing is held against a batch that runs.

    Raises:
        CalibrationError: It has another number of inputs, or shapes or types that the model was not exported for.
    """
    try:
        yield
    except QuantizerError:
        raise
    except Exception as e:
        if misfit := _misfit(model, batch):
            raise CalibrationError(f"batch {index}: {misfit}") from e
        if sys.version_info >= (3, 11):
            e.add_note(f"in batch {index} of the calibration data")
        raise


def _names(model: GraphModule) -> list[str]:
    """Return the names of a model's inputs, keywords last."""
    info = getattr(model.graph._codegen, "pytree_info", None)
    return [node.name for node in model.graph.find_nodes(op="placeholder")] if info is None else list(info.orig_args)


def _keywords(model: GraphModule) -> list[str]:
    """Return those inputs that a model was exported to take by name."""
    info = getattr(model.graph._codegen, "pytree_info", None)
    spec = None if info is None else info.in_spec
    return list(spec.child(1).context) if spec is not None and spec.num_children == 2 else []


def _misfit(model: GraphModule, batch: Any) -> str:
    """Return how a batch differs from what a model was exported for; "" where it does not."""
    nodes = model.graph.find_nodes(op="placeholder")
    given, wanted = pytree.tree_leaves(batch), [value_of(node) for node in nodes]
    if len(given) != len(wanted):
        takes = ", ".join(f"{node.target}: {_described(value)}" for node, value in zip(nodes, wanted, strict=True))
        return (
            f"{len(given)} inputs ({', '.join(map(_described, given))}); the model takes {len(wanted)} ({takes}). "
            "Leave out what else a loader gives, such as labels"
        )
    for node, value, expected in zip(nodes, given, wanted, strict=True):
        if not isinstance(expected, torch.Tensor) or (isinstance(value, torch.Tensor) and _fits(value, expected)):
            continue
        sizes = isinstance(value, torch.Tensor) and (value.dtype, value.dim()) == (expected.dtype, expected.dim())
        hint = ". Export with `dynamic_shapes` for sizes that vary; a loader's `drop_last` leaves out a smaller batch"
        wanted_one = f"the model was exported for {_described(expected)}{hint if sizes else ''}"
        return f"{node.target} is {_described(value)}; {wanted_one}"
    return ""


def _fits(value: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether a tensor has the type and the fixed sizes of another."""
    sizes = zip(value.shape, expected.shape, strict=False)
    return (
        value.dtype == expected.dtype
        and value.dim() == expected.dim()
        and all(isinstance(size, torch.SymInt) or own == size for own, size in sizes)
    )


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} [{', '.join(map(str, value.shape))}]"
