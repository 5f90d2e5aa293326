"""A failing graph made small: fewer calls, fewer results and inputs, smaller shapes, and still the same failure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from quantizer_sdk.conformance.edits import cut_at, extracted, is_valid, pruned, substituted, with_outputs
from quantizer_sdk.conformance.program import Call, Program, Ref
from quantizer_sdk.conformance.resize import resizings, smallest
from quantizer_sdk.conformance.scenario import Scenario

__all__ = ["FirstFailing", "shrink"]

FirstFailing = Callable[[Sequence[Scenario]], "int | None"]
"""Told candidates, the most welcome first; returns the place of the first that still fails, or None."""

_LARGEST_PART = 3
_MOST_AT_ONCE = 60
_SAMPLES = 8


def shrink(scenario: Scenario, first_failing: FirstFailing, *, most: int = 150) -> Scenario:
    """Return the smallest scenario found that still fails.

    Args:
        scenario: One that fails.
        first_failing: Judges candidates.
        most: How many candidates may be judged.
    """
    return _Shrinking(scenario, first_failing, most).run()


class _Shrinking:
    def __init__(self, scenario: Scenario, first_failing: FirstFailing, most: int) -> None:
        self.best = scenario
        self._first_failing = first_failing
        self._left = most

    def run(self) -> Scenario:
        if self.best.data != "generic":
            self._try([replace(self.best, data="generic")])
        while any(self._improved(edit) for edit in _EDITS):
            pass
        self._resize()
        return self.best

    def _improved(self, edit: Callable[[Program], Iterator[Program]]) -> bool:
        """Try what an edit makes of the program, once each, as far as it is smaller."""
        program = self.best.program
        found: dict[str, Program] = {}
        for candidate in edit(program):
            if _weight(candidate) < _weight(program) and is_valid(candidate):
                found.setdefault(_text(candidate), candidate)
        return self._accept(list(itertools.islice(found.values(), _MOST_AT_ONCE)))

    def _resize(self) -> None:
        """Make shapes and arguments smaller: all together as far as that still fails, then one by one."""
        steps = list(smallest(self.best.program))
        sample = sorted({round((len(steps) - 1) * (_SAMPLES - i) / _SAMPLES) for i in range(_SAMPLES)}, reverse=True)
        if steps:
            self._accept([steps[place] for place in sample])
        while self._accept(list(itertools.islice(resizings(self.best.program), _MOST_AT_ONCE))):
            pass

    def _accept(self, programs: Sequence[Program]) -> bool:
        """Go on with the first of these programs that still fails, if any does."""
        return self._try([_scenario_of(program, self.best) for program in programs])

    def _try(self, candidates: Sequence[Scenario]) -> bool:
        candidates = candidates[: self._left]
        if not candidates:
            return False
        place = self._first_failing(candidates)
        self._left -= len(candidates) if place is None else place + 1
        if place is None:
            return False
        self.best = candidates[place]
        return True


def _scenario_of(program: Program, scenario: Scenario) -> Scenario:
    """Return the scenario on another program, all of which is its subject."""
    return replace(scenario, program=program, length=len(program.calls))


def _parts(program: Program) -> Iterator[Program]:
    """Yield up to three calls on their own, fewer first, where they hang together."""
    reads = [{ref.index for ref in call.refs() if ref.kind == "v"} for call in program.calls]
    places = range(len(program.calls))
    for size in range(1, min(_LARGEST_PART, len(places) - 1) + 1):
        for part in itertools.combinations(places, size):
            if _connected(part, reads):
                yield extracted(program, part)


def _connected(part: tuple[int, ...], reads: list[set[int]]) -> bool:
    """Whether calls hang together by what they read of each other, or of the same third."""
    reached = {part[0]}
    for _ in part:
        reached |= {p for p in part if any(p in reads[q] or q in reads[p] or reads[p] & reads[q] for q in reached)}
    return reached == set(part)


def _fewer_results(program: Program) -> Iterator[Program]:
    """Yield the program with one result: any of its values, early ones first."""
    for place in range(len(program.calls)):
        yield with_outputs(program, (Ref("v", place),))


def _cuts(program: Program) -> Iterator[Program]:
    """Yield the program with an input in the place of a call, late ones first."""
    for place in range(len(program.calls) - 2, -1, -1):
        yield cut_at(program, (Ref("v", place),))


def _bypasses(program: Program) -> Iterator[Program]:
    """Yield the program without a call, whose operand goes on in its place."""
    for place, call in enumerate(program.calls):
        for ref in dict.fromkeys(call.refs()):
            if ref.kind != "p":
                yield substituted(program, {Ref("v", place): ref})


def _merges(program: Program) -> Iterator[Program]:
    """Yield the program with one input or parameter in the place of another of its shape, or of a parameter."""
    named = [(Ref("x", i), shape) for i, shape in enumerate(program.inputs)]
    named += [(Ref("p", i), shape) for i, shape in enumerate(program.parameters)]
    for (kept, shape), (dropped, other) in itertools.combinations(named, 2):
        if shape == other and kept.kind == dropped.kind:
            yield substituted(program, {dropped: kept})


def _bare(program: Program) -> Iterator[Program]:
    """Yield the program with None in the place of a parameter, such as a bias."""
    for place, call in enumerate(program.calls):
        for position, argument in enumerate(call.args):
            if isinstance(argument, Ref) and argument.kind == "p":
                bare = Call(call.target, (*call.args[:position], None, *call.args[position + 1 :]))
                calls = (*program.calls[:place], bare, *program.calls[place + 1 :])
                yield pruned(replace(program, calls=calls))


_EDITS = (_parts, _fewer_results, _cuts, _bypasses, _merges, _bare)


def _weight(program: Program) -> tuple[int, ...]:
    """Return what makes a program large, the worst first."""
    parameters = len(program.parameters)
    return len(program.calls), len(program.results), len(program.inputs) + parameters, parameters


def _text(program: Program) -> str:
    return f"{program.inputs} {program.parameters} {program.source()}"
