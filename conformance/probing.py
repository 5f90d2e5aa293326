"""What a quantizer without a table claims: each op of the corpus is offered to it, and its annotations are read."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from quantizer_sdk import Backend, OpRecord, QuantizerError, Row, Step, explain
from quantizer_sdk.conformance.bench import export
from quantizer_sdk.conformance.corpus import FOLLOWERS, FORMS, MOVES
from quantizer_sdk.conformance.program import Call, Program, Ref
from quantizer_sdk.errors import BackendError

__all__ = ["probed_rows"]

aten = torch.ops.aten
_TAILS = (aten.relu.default, aten.hardtanh.default, aten.relu6.default)


def probed_rows(backend: Backend) -> tuple[Row, ...]:
    """Return a row for each op, and each op with an activation behind it, that the quantizer claims.

    Ops that only move codes are offered behind one that computes, since alone there is nothing to move.

    Raises:
        BackendError: The quantizer claims none.
    """
    rows = []
    feeder = next(
        (target for target in (aten.relu.default, aten.add.Tensor, aten.mul.Tensor) if _claims(backend, target)), None
    )
    for target in FORMS:
        if target._schema.is_mutable:
            continue
        share = target in MOVES
        if not _claims(backend, target, feeder if share else None):
            continue
        rows.append(Row(str(target), (Step(frozenset({target})),), share=share))
        for tail in _TAILS if not share and target not in _TAILS else ():
            if _fuses(backend, target, tail):
                steps = (Step(frozenset({target})), Step(frozenset({tail})))
                rows.append(Row(f"{target}+{tail}", steps))
    if not rows:
        name = type(backend.quantizer()).__name__
        raise BackendError(f"{name} claims none of the {len(FORMS)} ops that the suite offers, so there are no cases")
    return tuple(rows)


def _claims(backend: Backend, target: torch._ops.OpOverload, feeder: torch._ops.OpOverload | None = None) -> bool:
    program = FORMS[target][0].program
    if feeder is not None:
        program = _behind(feeder, program)
    records = {op.op: op.state for op in _explained(backend, program)}
    return records.get(str(target), "float") != "float"


def _behind(feeder: torch._ops.OpOverload, program: Program) -> Program:
    """Put the feeder, on one tensor, before each input."""
    count = len(program.inputs)
    two = len(list(FORMS[feeder][0].program.calls[0].refs())) > 1
    feeds = tuple(Call(feeder, (Ref("x", i), Ref("x", i)) if two else (Ref("x", i),)) for i in range(count))
    (call,) = program.calls
    args = tuple(_moved(argument) for argument in call.args)
    return Program(inputs=program.inputs, parameters=program.parameters, calls=(*feeds, Call(call.target, args)))


def _moved(argument: object) -> object:
    if isinstance(argument, tuple):
        return tuple(_moved(element) for element in argument)
    return Ref("v", argument.index) if isinstance(argument, Ref) and argument.kind == "x" else argument


def _fuses(backend: Backend, target: torch._ops.OpOverload, tail: torch._ops.OpOverload) -> bool:
    """Whether the quantizer claims an op with an activation behind it as one kernel."""
    program = FOLLOWERS[tail](FORMS[target][0].program)
    if program is None:
        return False
    records = _explained(backend, program)
    return any(op.op == str(target) and op.fused_into is not None for op in records)


def _explained(backend: Backend, program: Program) -> tuple[OpRecord, ...]:
    inputs = [torch.randn(shape) for shape in program.inputs]
    model: GraphModule = export(program.module(), inputs)
    try:
        return explain(model, backend.quantizer()).ops
    except QuantizerError:
        return ()
