"""Programs made out of programs: without what nothing needs, with values replaced, and parts on their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from quantizer_sdk.conformance.program import Call, Program, Ref

__all__ = ["REFUSALS", "cut_at", "extracted", "is_valid", "pruned", "substituted", "with_outputs"]

REFUSALS = (RuntimeError, IndexError, ValueError, TypeError, ArithmeticError)
"""What torch raises for operands that do not suit an op."""


def pruned(program: Program) -> Program:
    """Return the program without the calls, inputs and parameters that its results do not depend on."""
    live = set(program.results)
    for place in range(len(program.calls) - 1, -1, -1):
        if Ref("v", place) in live:
            live.update(program.calls[place].refs())
    kept = {kind: sorted(ref.index for ref in live if ref.kind == kind) for kind in "xpv"}
    new = {Ref(kind, old): Ref(kind, place) for kind, olds in kept.items() for place, old in enumerate(olds)}
    outputs = tuple(new[ref] for ref in program.results)
    return Program(
        inputs=tuple(program.inputs[place] for place in kept["x"]),
        parameters=tuple(program.parameters[place] for place in kept["p"]),
        calls=tuple(_rewired(program.calls[place], new) for place in kept["v"]),
        outputs=() if outputs == (Ref("v", len(kept["v"]) - 1),) else outputs,
    )


def substituted(program: Program, new: Mapping[Ref, Ref]) -> Program:
    """Return the program with other tensors in the place of some, wherever calls or results read them; pruned.

    Raises:
        InvalidSpecError: A call would read a result that comes after it.
    """
    calls = tuple(_rewired(call, new) for call in program.calls)
    outputs = tuple(dict.fromkeys(new.get(ref, ref) for ref in program.results))
    return pruned(replace(program, calls=calls, outputs=outputs))


def cut_at(program: Program, refs: Collection[Ref]) -> Program:
    """Return the program with fresh inputs in the place of some results, and without what led to these alone."""
    shapes = program.shapes()
    cut = sorted(refs, key=lambda ref: ref.index)
    first = len(program.inputs)
    widened = replace(program, inputs=program.inputs + tuple(shapes[ref.index] for ref in cut))
    return substituted(widened, {ref: Ref("x", first + place) for place, ref in enumerate(cut)})


def extracted(program: Program, places: Iterable[int]) -> Program:
    """Return some of the calls as a program of their own: what others gave them is an input each."""
    inside = set(places)
    read = {ref for place in inside for ref in program.calls[place].refs()}
    outputs = tuple(Ref("v", place) for place in sorted(inside) if Ref("v", place) not in read)
    outside = {ref for ref in read if ref.kind == "v" and ref.index not in inside}
    return cut_at(replace(program, outputs=outputs), outside)


def with_outputs(program: Program, outputs: tuple[Ref, ...]) -> Program:
    """Return the program that gives these results only."""
    return pruned(replace(program, outputs=outputs))


def is_valid(program: Program) -> bool:
    """Whether each call takes its operands and gives something, and each result is one of theirs."""
    if not program.calls or any(ref.kind != "v" for ref in program.results):
        return False
    try:
        if any(0 in shape for shape in program.shapes()):
            return False
        with torch.no_grad():  # shapes alone let some wrong operands pass, such as channels that no group divides
            program.module()(*[torch.zeros(shape) for shape in program.inputs])
    except REFUSALS:
        return False
    return True


def _rewired(call: Call, new: Mapping[Ref, Ref]) -> Call:
    return Call(call.target, mapped(call.args, lambda ref: new.get(ref, ref)))


def mapped(value: Any, function: Callable[[Ref], Any]) -> Any:
    """Return arguments with each tensor among them replaced."""
    if isinstance(value, Ref):
        return function(value)
    return tuple(mapped(element, function) for element in value) if isinstance(value, tuple) else value
