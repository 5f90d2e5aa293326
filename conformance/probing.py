"""What a quantizer without a table claims: all ops of the corpus are offered to it in one graph, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule

from quantizer_sdk import Backend, OpRecord, Row, Step, explain
from quantizer_sdk.conformance.bench import export
from quantizer_sdk.conformance.corpus import FORMS, MOVES
from quantizer_sdk.conformance.followers import FOLLOWERS, behind
from quantizer_sdk.conformance.program import Call, Program, Ref
from quantizer_sdk.errors import BackendError

__all__ = ["Claims", "probed_rows"]

aten = torch.ops.aten
_TAILS = (aten.relu.default, aten.hardtanh.default, aten.relu6.default)
_FEEDERS = (aten.relu.default, aten.add.Tensor, aten.mul.Tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """One branch of the graph: an op, fed by another or followed by one.

    Attributes:
        targets: The ops that a row would be made of.
        program: The branch.
        share: Whether the op only moves codes.
    """

    targets: tuple[torch._ops.OpOverload, ...]
    program: Program
    share: bool = False


def probed_rows(backend: Backend) -> tuple[Row, ...]:
    """Return a row for each op, and each op with an activation behind it, that the quantizer claims.

    Ops that only move codes are offered behind one that computes, since alone there is nothing to move.

    Raises:
        BackendError: The quantizer claims none.
    """
    alone = [target for target in FORMS if not target._schema.is_mutable and target not in MOVES]
    offers = [_Offer(targets=(target,), program=FORMS[target][0].program) for target in alone]
    for target in alone:
        for tail in _TAILS if target not in _TAILS else ():
            followed = FOLLOWERS[tail](FORMS[target][0].program)
            if followed is not None:
                offers.append(_Offer(targets=(target, tail), program=followed))
    rows = _claimed(backend, offers)
    claimed = {target for row in rows if len(row.steps) == 1 for target in row.steps[0].targets}
    feeder = next((target for target in _FEEDERS if target in claimed), None)
    if feeder is not None:
        moving = sorted(MOVES, key=str)
        fed = [_Offer(targets=(t,), program=behind(feeder, FORMS[t][0].program), share=True) for t in moving]
        rows += _claimed(backend, fed)
    if not rows:
        name = type(backend.quantizer()).__name__
        raise BackendError(f"{name} claims none of the {len(FORMS)} ops that the suite offers, so there are no cases")
    return tuple(rows)


class Claims:
    """Whether the quantizers of a backend claim all ops of a program.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._exported: dict[Program, GraphModule] = {}

    def __call__(self, program: Program, scheme: str) -> bool:
        """Ask the quantizer of a configuration."""
        if program not in self._exported:
            self._exported[program] = export(program.module(), [torch.randn(shape) for shape in program.inputs])
        records = explain(self._exported[program], self._backend.schemes()[scheme]()).ops
        return all(record.claimed for record in records)


def _claimed(backend: Backend, offers: Sequence[_Offer]) -> list[Row]:
    """Return a row for each offer that is taken as a whole."""
    program = _side_by_side([offer.program for offer in offers])
    model = export(program.module(), [torch.randn(shape) for shape in program.inputs])
    records = _aligned(program, explain(model, backend.quantizer()).ops)
    rows = []
    for offer in offers:
        own = [next(records) for _ in offer.program.calls][-len(offer.targets) :]
        taken = all(record is not None and record.claimed for record in own)
        fused = all(record is not None and record.fused_into is not None for record in own[:-1])
        if taken and fused:
            steps = tuple(Step(frozenset({target})) for target in offer.targets)
            rows.append(Row("+".join(str(target) for target in offer.targets), steps, share=offer.share))
    return rows


def _aligned(program: Program, records: Sequence[OpRecord]) -> Iterator[OpRecord | None]:
    """Yield the record of each call; None for a call that the engine has tidied away."""
    place = 0
    for call in program.calls:
        if place < len(records) and records[place].op == str(call.target):
            yield records[place]
            place += 1
        else:
            yield None


def _side_by_side(programs: Sequence[Program]) -> Program:
    """Join programs into one whose branches have nothing in common."""
    inputs: list[tuple[int, ...]] = []
    parameters: list[tuple[int, ...]] = []
    calls: list[Call] = []
    outputs = []
    for program in programs:
        first = {"x": len(inputs), "p": len(parameters), "v": len(calls)}
        inputs += program.inputs
        parameters += program.parameters
        calls += [Call(call.target, _shifted(call.args, first)) for call in program.calls]
        outputs.append(Ref("v", len(calls) - 1))
    return Program(inputs=tuple(inputs), parameters=tuple(parameters), calls=tuple(calls), outputs=tuple(outputs))


def _shifted(value: Any, first: dict[str, int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_shifted(element, first) for element in value)
    return Ref(value.kind, value.index + first[value.kind]) if isinstance(value, Ref) else value
