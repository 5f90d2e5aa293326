"""Programs with smaller numbers: sizes of inputs and parameters, and the arguments that go with them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from quantizer_sdk.conformance.edits import is_valid
from quantizer_sdk.conformance.program import Call, Program

__all__ = ["resizings", "smallest"]

_Path: TypeAlias = tuple[Any, ...]
"""Where a number stands: ("inputs", 0, 2) is the size of input 0 along axis 2, ("calls", 1, 3, 0) is in call 1."""

_MOST_PAIRS = 40


def smallest(program: Program) -> Iterator[Program]:
    """Yield ever smaller programs of the same calls: each makes one number smaller, with those that depend on it.

    The last has no number that could be smaller while the calls still take their operands.
    """
    following = next(resizings(program), None)
    while following is not None:
        yield following
        following = next(resizings(following), None)


def resizings(program: Program) -> Iterator[Program]:
    """Yield the program with one number smaller, and those that depend on it, large sizes and large steps first."""
    numbers = _numbers(program)
    for path in sorted(numbers, key=lambda path: (path[0] == "calls", -numbers[path])):
        value = numbers[path]
        least = 0 if path[0] == "calls" else 1
        for smaller in dict.fromkeys((least, 1, 2, value // 2, value - 1)):
            if least <= smaller < value:
                resized = _resized(program, numbers, path, smaller)
                if resized is not None:
                    yield resized


def _resized(program: Program, numbers: Mapping[_Path, int], path: _Path, smaller: int) -> Program | None:
    """Return the program with a number changed, and as few others in proportion as make it fit."""
    value = numbers[path]
    others = [other for other, size in numbers.items() if other != path and size > 1 and size * smaller % value == 0]
    if smaller == 0:
        others = []
    pairs = itertools.islice(itertools.combinations(others, 2), _MOST_PAIRS)
    equal = tuple(other for other in others if numbers[other] == value)
    for along in ((), *((other,) for other in others), *pairs, equal, tuple(others)):
        changes = {path: smaller, **{other: numbers[other] * smaller // value for other in along}}
        candidate = _with_numbers(program, changes)
        if is_valid(candidate):
            return candidate
    return None


def _numbers(program: Program) -> dict[_Path, int]:
    """Return all sizes and whole arguments above 0 by where they stand."""
    found: dict[_Path, int] = {}
    for kind, shapes in (("inputs", program.inputs), ("parameters", program.parameters)):
        found |= {(kind, place, axis): size for place, shape in enumerate(shapes) for axis, size in enumerate(shape)}
    for place, call in enumerate(program.calls):
        found |= dict(_within(call.args, ("calls", place)))
    return {path: number for path, number in found.items() if number > 0}


def _within(value: Any, path: _Path) -> Iterator[tuple[_Path, int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, tuple):
        for place, element in enumerate(value):
            yield from _within(element, (*path, place))


def _with_numbers(program: Program, changes: Mapping[_Path, int]) -> Program:
    calls = tuple(
        Call(call.target, _replaced(call.args, ("calls", place), changes)) for place, call in enumerate(program.calls)
    )
    return replace(
        program,
        inputs=_replaced(program.inputs, ("inputs",), changes),
        parameters=_replaced(program.parameters, ("parameters",), changes),
        calls=calls,
    )


def _replaced(value: Any, path: _Path, changes: Mapping[_Path, int]) -> Any:
    if path in changes:
        return changes[path]
    if isinstance(value, tuple):
        return tuple(_replaced(element, (*path, place), changes) for place, element in enumerate(value))
    return value
