"""A small graph as plain data: what cases, fuzzing, shrinking and standalone scripts are all made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantizer_sdk.errors import InvalidSpecError

__all__ = ["Call", "Program", "ProgramModule", "Ref", "overload_of"]


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor of a program.

    Attributes:
        kind: "x" an input, "p" a parameter, "v" the result of a call.
        index: Which one.
    """

    kind: str
    index: int

    def __str__(self) -> str:
        return f"{self.kind}{self.index}"


@dataclass(frozen=True, slots=True)
class Call:
    """One op.

    Attributes:
        target: The aten overload.
        args: Its positional arguments: numbers, None, strings, tuples, and `Ref`s in the place of tensors.
    """

    target: torch._ops.OpOverload
    args: tuple[Any, ...]

    def fed(self) -> Call:
        """Return this call with the result of call i in the place of input i: where every input is fed by a call."""
        return Call(self.target, _fed(self.args))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the op's name: overloads cannot be pickled."""
        return _call_of, (str(self.target), self.args)

    def refs(self) -> Iterator[Ref]:
        """Yield the tensors that it reads, in order."""
        yield from _refs(self.args)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Inputs, parameters and calls in order; the results named by `outputs` leave it.

    Attributes:
        inputs: The shape of each input.
        parameters: The shape of each parameter; a seed gives the values.
        calls: The ops.
        outputs: Which values are returned; the last call's by default.
    """

    inputs: tuple[tuple[int, ...], ...]
    parameters: tuple[tuple[int, ...], ...] = ()
    calls: tuple[Call, ...]
    outputs: tuple[Ref, ...] = ()

    def __post_init__(self) -> None:
        sizes = {"x": len(self.inputs), "p": len(self.parameters)}
        for place, call in enumerate(self.calls):
            for ref in call.refs():
                if not 0 <= ref.index < sizes.get(ref.kind, place):
                    raise InvalidSpecError(f"call {place} ({call.target}) reads {ref}, which is not there before it")
        if any(ref.kind == "v" and ref.index >= len(self.calls) for ref in self.outputs):
            raise InvalidSpecError(f"outputs {', '.join(map(str, self.outputs))}; there are {len(self.calls)} calls")

    @property
    def results(self) -> tuple[Ref, ...]:
        """The values that leave the program."""
        return self.outputs or (Ref("v", len(self.calls) - 1),)

    def module(self, seed: int = 0, magnitude: Callable[[int, Tensor], Tensor] | None = None) -> ProgramModule:
        """Return a module that computes it, with parameters drawn from a seed.

        Args:
            seed: Of the parameters.
            magnitude: Changes each parameter, given its index and values; None leaves them.
        """
        return ProgramModule(self, seed, magnitude)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shape of each call's result, found without computing it."""
        with torch.device("meta"):
            values: dict[Ref, Tensor] = {}
            self._run([torch.empty(shape) for shape in self.inputs], [torch.empty(s) for s in self.parameters], values)
        return tuple(tuple(values[Ref("v", place)].shape) for place in range(len(self.calls)))

    def then(self, target: torch._ops.OpOverload, *args: Any, inputs: tuple[tuple[int, ...], ...] = ()) -> Program:
        """Return this program with another call behind it, and further inputs for that call."""
        return Program(
            inputs=self.inputs + inputs,
            parameters=self.parameters,
            calls=(*self.calls, Call(target, args)),
        )

    def source(self) -> str:
        """Return a Python function of torch alone that computes it: `def model(x0, ..., p0, ...)`."""
        names = [f"x{i}" for i in range(len(self.inputs))] + [f"p{i}" for i in range(len(self.parameters))]
        lines = [f"def model({', '.join(names)}):"]
        for place, call in enumerate(self.calls):
            arguments = ", ".join(_literal(argument) for argument in call.args)
            lines.append(f"    v{place} = torch.ops.{call.target}({arguments})")
        lines.append(f"    return {', '.join(str(ref) for ref in self.results)}")
        return "\n".join(lines)

    def _run(self, inputs: list[Tensor], parameters: list[Tensor], values: dict[Ref, Tensor]) -> tuple[Tensor, ...]:
        values.update({Ref("x", i): tensor for i, tensor in enumerate(inputs)})
        values.update({Ref("p", i): tensor for i, tensor in enumerate(parameters)})
        for place, call in enumerate(self.calls):
            values[Ref("v", place)] = call.target(*(_resolve(argument, values) for argument in call.args))
        return tuple(values[ref] for ref in self.results)


class ProgramModule(nn.Module):
    """A program with its parameters.

    Parameters are normal, scaled so that a result has about its operands' magnitude: a parameter of rank 2 or more by
    the root of its elements for each of the first axis.

    Args:
        program: What it computes.
        seed: Of the parameters.
        magnitude: See `Program.module`.
    """

    def __init__(self, program: Program, seed: int, magnitude: Callable[[int, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.program = program
        generator = torch.Generator().manual_seed(seed)
        for place, shape in enumerate(program.parameters):
            value = torch.randn(shape, generator=generator)
            if len(shape) > 1:
                value = value / math.sqrt(max(1, value.numel() // shape[0]))
            self.register_parameter(f"p{place}", nn.Parameter(value if magnitude is None else magnitude(place, value)))

    def forward(self, *inputs: Tensor) -> Any:
        """Return the results: one tensor, or a tuple of several."""
        parameters = [getattr(self, f"p{place}") for place in range(len(self.program.parameters))]
        results = self.program._run(list(inputs), parameters, {})
        return results[0] if len(results) == 1 else results


def overload_of(name: str) -> torch._ops.OpOverload:
    """Return the overload of a name such as "aten.add.Tensor"."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, torch._ops.OpOverload):
        raise InvalidSpecError(f"{name!r} names no op overload; expected one such as 'aten.add.Tensor'")
    return found


def _call_of(name: str, args: tuple[Any, ...]) -> Call:
    return Call(overload_of(name), args)


def _fed(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_fed(element) for element in value)
    return Ref("v", value.index) if isinstance(value, Ref) and value.kind == "x" else value


def _refs(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, tuple):
        for element in value:
            yield from _refs(element)


def _resolve(value: Any, values: dict[Ref, Tensor]) -> Any:
    if isinstance(value, Ref):
        return values[value]
    return [_resolve(element, values) for element in value] if isinstance(value, tuple) else value


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_literal(element) for element in value)}]"
    return str(value) if isinstance(value, Ref) else repr(value)
