"""A program while it grows: what there is to read, in which shapes and strides, and who reads it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from quantizer_sdk.conformance.edits import REFUSALS, pruned
from quantizer_sdk.conformance.program import Call, Program, Ref

__all__ = ["Draft"]

_MOST_ELEMENTS = 600


class Draft:
    """Inputs, parameters and calls so far; shapes and strides are those of meta tensors.

    Args:
        shapes: Of the first inputs.
    """

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.calls: list[Call] = []
        self._inputs: list[tuple[int, ...]] = []
        self._parameters: list[tuple[int, ...]] = []
        self._tensors: dict[Ref, Tensor] = {}
        self._readers: Counter[Ref] = Counter()
        self._spent: set[Ref] = set()
        for shape in shapes:
            self.input(shape)

    def copy(self) -> Draft:
        """Return a draft that grows for itself."""
        copied = Draft()
        copied.calls = list(self.calls)
        copied._inputs, copied._parameters = list(self._inputs), list(self._parameters)
        copied._tensors = dict(self._tensors)
        copied._readers, copied._spent = Counter(self._readers), set(self._spent)
        return copied

    def input(self, shape: tuple[int, ...]) -> Ref:
        """Add an input."""
        self._inputs.append(shape)
        return self._added(Ref("x", len(self._inputs) - 1), shape)

    def parameter(self, *shape: int) -> Ref:
        """Add a parameter."""
        self._parameters.append(shape)
        return self._added(Ref("p", len(self._parameters) - 1), shape)

    def _added(self, ref: Ref, shape: tuple[int, ...]) -> Ref:
        self._tensors[ref] = torch.empty(shape, device="meta")
        return ref

    def call(self, target: torch._ops.OpOverload, *args: Any) -> Ref | None:
        """Add a call.

        Returns:
            Its result; None, with nothing added, where the operands do not suit it, or the result is empty, large, or
            has no axes.
        """
        call = Call(target, args)
        try:
            result = target(*(_resolved(argument, self._tensors) for argument in args))
        except REFUSALS:
            return None
        if not isinstance(result, Tensor) or not result.dim() or not 0 < result.numel() <= _MOST_ELEMENTS:
            return None
        self.calls.append(call)
        for ref in dict.fromkeys(call.refs()):
            self._readers[ref] += 1
        if target._schema.is_mutable:
            self._spent.add(next(call.refs()))
        ref = Ref("v", len(self.calls) - 1)
        self._tensors[ref] = result
        return ref

    def close(self, ref: Ref) -> None:
        """Let no further call read a tensor."""
        self._spent.add(ref)

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self._tensors[ref].shape)

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return len(self._inputs)

    def values(self) -> list[Ref]:
        """Return what a call may read, oldest first: inputs and results, but for those written over or closed."""
        return [ref for ref in self._tensors if ref.kind != "p" and ref not in self._spent]

    def unread(self) -> list[Ref]:
        """Return the results that nothing reads."""
        return [ref for ref in self.values() if ref.kind == "v" and not self._readers[ref]]

    def target_of(self, ref: Ref) -> torch._ops.OpOverload | None:
        """Return the op that gave a value; None for inputs."""
        return self.calls[ref.index].target if ref.kind == "v" else None

    def program(self, outputs: tuple[Ref, ...]) -> Program:
        """Return the program that computes these results, and nothing else."""
        whole = Program(
            inputs=tuple(self._inputs), parameters=tuple(self._parameters), calls=tuple(self.calls), outputs=outputs
        )
        return pruned(whole)


def _resolved(value: Any, tensors: dict[Ref, Tensor]) -> Any:
    if isinstance(value, Ref):
        return tensors[value]
    return [_resolved(element, tensors) for element in value] if isinstance(value, tuple) else value
