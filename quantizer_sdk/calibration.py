"""Run a prepared model over calibration data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk.batches import run_batch
from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.errors import CalibrationError
from quantizer_sdk.model_copy import written_tensors
from quantizer_sdk.verify import require_prepared

__all__ = ["calibrate"]


def calibrate(
    prepared: GraphModule,
    batches: Iterable[Any],
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> int:
    """Run a prepared model over calibration data.

    Args:
        prepared: The result of `prepare_pt2e`; its observers change, nothing else does: state that the model itself
            writes, such as a cache, is put back afterwards.
        batches: One element a run: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        progress: Wraps the batches to show progress, such as `tqdm.tqdm`.

    Returns:
        The number of batches.

    Raises:
        CalibrationError: There are no batches, or one is of another kind.
        NonFiniteError: NaN or infinity reached an observer; names the layer.
        NotPreparedError: The model holds no observers.
    """
    require_prepared(prepared)
    count = 0
    with torch.no_grad(), _state_kept(prepared):
        for batch in batches if progress is None else progress(batches):
            run_batch(prepared, batch, count)
            count += 1
    if count == 0:
        message = "the calibration data holds no batch at all; give at least one (has an iterator been used up before?)"
        raise CalibrationError(message)
    return count


@contextlib.contextmanager
def _state_kept(model: GraphModule) -> Iterator[None]:
    """Put back, after the block, what the model's own ops have written into its buffers."""
    before = {tensor: tensor.detach().clone() for _path, graph in graphs_of(model) for tensor in written_tensors(graph)}
    try:
        yield
    finally:
        for tensor, value in before.items():
            tensor.detach().copy_(value)
