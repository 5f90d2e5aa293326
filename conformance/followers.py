"""How ops are put behind a program, and one before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from quantizer_sdk.conformance.corpus import CLAMPS, FORMS, TABLE_OPS
from quantizer_sdk.conformance.program import Call, Program, Ref

__all__ = ["FOLLOWERS", "Follower", "behind", "subject_of"]

aten = torch.ops.aten
_Overload: TypeAlias = torch._ops.OpOverload

Follower: TypeAlias = Callable[[Program], "Program | None"]
"""Puts an op behind a program; None where the result's shape does not suit it."""


def subject_of(targets: tuple[_Overload, ...]) -> str:
    """Return how case ids name a chain of ops: "aten.conv2d+aten.relu"; plain overloads go without their name."""
    return "+".join(str(target).removesuffix(".default").removesuffix(".Tensor") for target in targets)


def _by_arguments(target: _Overload) -> Follower:
    """Follow with the further arguments of the op's plainest form."""
    args = FORMS[target][0].program.calls[0].args[1:]
    return lambda program: program.then(target, Ref("v", len(program.calls) - 1), *args)


def _by_residual(target: _Overload) -> Follower:
    """Follow with a second operand from outside, of the same shape."""

    def follow(program: Program) -> Program:
        other = Ref("x", len(program.inputs))
        return program.then(target, Ref("v", len(program.calls) - 1), other, inputs=(program.shapes()[-1],))

    return follow


def _by_weight(target: _Overload, rank: int) -> Follower:
    """Follow with a convolution of 5 channels (rank > 0) or a linear layer of 5 features (rank 0), with bias."""

    def follow(program: Program) -> Program | None:
        shape = program.shapes()[-1]
        if rank and len(shape) != rank + 2:
            return None
        weight = (5, shape[1], *(2,) * rank) if rank else (5, shape[-1])
        first = len(program.parameters)
        args: tuple[Any, ...] = (Ref("v", len(program.calls) - 1), Ref("p", first), Ref("p", first + 1))
        if rank:
            args += ((1,) * rank, "valid" if target._overloadname == "padding" else (0,) * rank, (1,) * rank, 1)
        return Program(
            inputs=program.inputs,
            parameters=(*program.parameters, weight, (5,)),
            calls=(*program.calls, Call(target, args)),
        )

    return follow


FOLLOWERS: Mapping[_Overload, Follower] = MappingProxyType(
    {
        **{target: _by_arguments(target) for target in (*CLAMPS, *TABLE_OPS)},
        **{
            target: _by_residual(target)
            for target in (aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul_.Tensor)
        },
        aten.conv1d.default: _by_weight(aten.conv1d.default, 1),
        aten.conv2d.default: _by_weight(aten.conv2d.default, 2),
        aten.conv1d.padding: _by_weight(aten.conv1d.padding, 1),
        aten.conv2d.padding: _by_weight(aten.conv2d.padding, 2),
        aten.linear.default: _by_weight(aten.linear.default, 0),
    }
)
"""How an op is put behind a program; the ops that are not here only begin one."""


def behind(feeder: _Overload, program: Program) -> Program:
    """Put a call of the feeder on every input before the program's one call."""
    count = len(program.inputs)
    second = feeder in {aten.add.Tensor, aten.mul.Tensor}
    rest = FORMS[feeder][0].program.calls[0].args[1:]
    feeds = tuple(
        Call(feeder, (Ref("x", i), Ref("x", count + i)) if second else (Ref("x", i), *rest)) for i in range(count)
    )
    (call,) = program.calls
    return Program(
        inputs=program.inputs * 2 if second else program.inputs,
        parameters=program.parameters,
        calls=(*feeds, call.fed()),
    )
