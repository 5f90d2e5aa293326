"""Control flow of two models at once: the quantized one's beside the float one's, as long as it goes the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from quantizer_sdk.control_flow import ControlFlow

__all__ = ["run_jointly"]

Run = Callable[[int, Sequence[Any], "Sequence[Any] | None"], tuple[Any, Any]]
"""Runs the pair of inner graphs of an index; with None only the float one."""
Alone = Callable[[int, Sequence[Any]], Any]
"""Runs the quantized graph of a pair by itself."""
_Both = tuple[Any, Any]
_Others = Any  # a sequence, or None


def run_jointly(
    form: ControlFlow,
    run: Run,
    alone: Alone,
    arguments: Sequence[Any],
    others: Sequence[Any] | None,
    parted: list[bool],
) -> _Both:
    """Run a call of control flow.

    Args:
        form: Which op it is.
        run: Runs inner graphs.
        alone: Runs one where the two models part.
        arguments: The call's, of the float model.
        others: The same of the quantized model, or None where that does not run.
        parted: Takes an element where the two went different ways.

    Returns:
        What both return; None for the quantized model where it did not run.
    """
    return _JOINT[form.name](run, alone, arguments, others, parted)


def _cond(run: Run, alone: Alone, arguments: Sequence[Any], others: _Others, parted: list[bool]) -> _Both:
    branch, operands = (0 if arguments[0] else 1), arguments[3]
    if others is None:
        return run(branch, operands, None)
    other = 0 if others[0] else 1
    if branch == other:
        return run(branch, operands, others[3])
    parted.append(True)
    return run(branch, operands, None)[0], alone(other, others[3])


def _while_loop(run: Run, alone: Alone, arguments: Sequence[Any], others: _Others, parted: list[bool]) -> _Both:
    state, closure = tuple(arguments[2]), tuple(arguments[3])
    other, beside = (None, ()) if others is None else (tuple(others[2]), tuple(others[3]))
    running = others is not None  # whether the quantized loop goes on
    while True:
        goes, its = run(0, (*state, *closure), None if not running or other is None else (*other, *beside))
        if running and bool(goes) != bool(its):
            parted.append(True)
        running = running and bool(its)
        if not goes:
            break
        state, new = run(1, (*state, *closure), (*other, *beside) if running and other is not None else None)
        state, other = tuple(state), (tuple(new) if running else other)
    while running and other is not None:  # further than the float loop
        other = tuple(alone(1, (*other, *beside)))
        running = bool(alone(0, (*other, *beside)))
    return state, other


def _map(run: Run, _alone: Alone, arguments: Sequence[Any], others: _Others, _parted: list[bool]) -> _Both:
    slices, closure = _slices(arguments[1]), tuple(arguments[2])
    beside = [None] * len(slices) if others is None else [(*it, *others[2]) for it in _slices(others[1])]
    results = [run(0, (*it, *closure), other) for it, other in zip(slices, beside, strict=True)]
    return _stacked([it for it, _ in results]), None if others is None else _stacked([it for _, it in results])


def _scan(run: Run, _alone: Alone, arguments: Sequence[Any], others: _Others, _parted: list[bool]) -> _Both:
    state, closure = list(arguments[1]), tuple(arguments[3])
    other = [] if others is None else list(others[1])
    slices = _slices(arguments[2])
    beside = [()] * len(slices) if others is None else _slices(others[2])
    rest, others_rest = [], []
    for it, its in zip(slices, beside, strict=True):
        inputs = None if others is None else (*other, *its, *others[3])
        results, quantized = run(0, (*state, *it, *closure), inputs)
        rest.append(list(results)[len(state) :])
        state = list(results)[: len(state)]
        if others is not None:
            others_rest.append(list(quantized)[len(other) :])
            other = list(quantized)[: len(other)]
    return [*state, *_stacked(rest)], None if others is None else [*other, *_stacked(others_rest)]


def _with_grad(run: Run, _alone: Alone, arguments: Sequence[Any], others: _Others, _parted: list[bool]) -> _Both:
    return run(0, arguments[2:], None if others is None else others[2:])


_JOINT: dict[str, Callable[[Run, Alone, Sequence[Any], Any, list[bool]], _Both]] = {
    "cond": _cond,
    "while_loop": _while_loop,
    "map_impl": _map,
    "scan": _scan,
    "wrap_with_set_grad_enabled": _with_grad,
}


def _slices(tensors: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
    return list(zip(*(tensor.unbind() for tensor in tensors), strict=True))


def _stacked(runs: Sequence[Sequence[Any]]) -> list[Any]:
    """Stack what each run returned, result by result."""
    return [None if results[0] is None else torch.stack(list(results)) for results in zip(*runs, strict=True)]
