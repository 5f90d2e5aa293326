"""The families of a table: for each chain of ops that a row can match, the scenarios that it is looked at in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from quantizer_sdk import Row
from quantizer_sdk.conformance.corpus import FORMS, MOVES, POSITIVE, TABLE_OPS
from quantizer_sdk.conformance.followers import FOLLOWERS, behind, subject_of
from quantizer_sdk.conformance.forms import Form
from quantizer_sdk.conformance.program import Call, Program, Ref
from quantizer_sdk.conformance.relations import batch_size, grows_with_inputs, output_channels
from quantizer_sdk.conformance.scenario import Scenario

__all__ = ["EXPORTS", "MALFORMED", "applies", "chains_of", "has_weights", "row_scenarios"]

aten = torch.ops.aten

_CONTRACT = ("C1", "C2", "C3", "C4")
_REFERENCE = ("R1", "R2", "R3", "R6", "R7")
_DEPLOYED = ("D1", "D2", "D3")
_FULL = (*_CONTRACT, "E1", "E3", "E4", *_REFERENCE, "R4", "R5", "K1", "K2", *_DEPLOYED, "D4")
_PLAIN = (*_CONTRACT, *_REFERENCE, "K1", "K2", *_DEPLOYED)
_EDGE = ("C1", "C2", "C3", "R1", "K1", "K5", "D1", "D2")
_TIES = ("R1", "K1", "K3", "D3")

MALFORMED = ("edge_missing", "axis_out_of_rank", "shared_nowhere", "shared_cycle", "derived_nowhere", "not_a_spec")
"""Ways to spoil an annotation, each the data of a C5 case."""

EXPORTS = ("strict", "no_grad", "dynamic", "called_twice", "training_export", "alias")
"""Other ways to come by the same graph, each the data of an E2 case."""

_SECOND_NAMES = frozenset({aten.constant_pad_nd.default, aten.conv1d.padding, aten.conv2d.padding})
_NAMESAKES = frozenset({aten.cat.default, aten.concat.default, aten.concatenate.default})
_SIZED = frozenset({aten.squeeze.dim, aten.unsqueeze.default, aten.unflatten.int})
"""Ops that backends write as reshapes to the sizes of the example, which leave no other batch."""
_FEEDERS = (aten.relu.default, aten.add.Tensor, aten.mul.Tensor, aten.sigmoid.default, aten.hardtanh.default)
_POSITIVE_FEEDERS = (aten.sigmoid.default, aten.exp.default)
# Some whole numbers, or, where tanh saturates, one: whether that is next to a tie is no matter of chance.
_STEPS = frozenset({aten.ceil.default, aten.floor.default, aten.tanh.default})
_GEMMS = ("conv", "linear", "addmm", "mm", "matmul", "bmm")


def row_scenarios(
    rows: Sequence[Row], schemes: Sequence[str], without: frozenset[str] = frozenset()
) -> tuple[Scenario, ...]:
    """Enumerate the scenarios of a table.

    Each chain of ops that a row can match is one family. The plainest form of each family is looked at from all sides,
    other usual forms on random codes and on ties, unusual ones for their shape.

    Args:
        rows: The table.
        schemes: The names of the backend's configurations; all beyond the first only for ops with weights.
        without: Checks that nothing can answer, such as those of kernels where there is no runner.
    """
    feeder = _feeder(rows)
    alone = _alone(rows)
    skips = {aten.relu.default, aten.add.Tensor} <= alone
    seen: dict[str, Scenario] = {}
    for row in rows:
        for chain, principal in chains_of(row):
            fed_by = feeder if row.share or _mutates(chain[0]) else None
            if chain[0] in POSITIVE:
                fed_by = next((target for target in _POSITIVE_FEEDERS if target in alone), None)
            for scenario in _family(chain, fed_by, schemes) if principal else _alias(chain, fed_by, schemes[0]):
                checks = tuple(c for c in scenario.checks if c not in without and applies(c, scenario))
                if checks and (skips or scenario.data != "residual"):
                    kept = replace(scenario, checks=checks, row=row.name)
                    seen.setdefault(kept.case_ids()[0], kept)
    return tuple(seen.values())


def applies(check: str, scenario: Scenario) -> bool:
    """Whether there is anything that a check could look at: some relations are not those of every graph."""
    program = scenario.program
    if check == "K2" and scenario.targets[-1] in _STEPS:
        return False
    if check == "R4":
        return grows_with_inputs(program)
    if check == "R5":
        return output_channels(program, scenario.length) is not None
    if check == "R6" and any(call.target in _SIZED for call in program.calls):
        return False
    if check == "R6" or scenario.data in {"dynamic", "dynamic_batch"}:
        return batch_size(program) is not None
    return scenario.data != "alias" or scenario.targets[0] in _NAMESAKES


def chains_of(row: Row) -> Iterator[tuple[tuple[torch._ops.OpOverload, ...], bool]]:
    """Yield every chain of overloads that a row matches, as far as the suite knows how to call them.

    With each comes whether it is a principal one: others only call the same kernel by another name, as ops that change
    their operand do, a second name for the same activation, and within longer chains one for the same convolution.
    """
    heads = sorted((t for t in row.steps[0].targets if t in FORMS), key=_rank)
    alone = len(row.steps) == 1
    chains: list[tuple[tuple[torch._ops.OpOverload, ...], bool]] = [
        ((head,), not _mutates(head) and (alone or head not in _SECOND_NAMES)) for head in heads
    ]
    for step in row.steps[1:]:
        tails = sorted((t for t in step.targets if t in FOLLOWERS), key=_rank)
        chains = [
            ((*chain, tail), principal and tail not in _SECOND_NAMES and (place == 0 or not _is_clamp(tail)))
            for chain, principal in chains
            for place, tail in enumerate(tails)
        ]
    yield from chains


def _is_clamp(target: torch._ops.OpOverload) -> bool:
    return len(FORMS.get(target, ())) > 0 and len(list(FORMS[target][0].program.calls[0].refs())) == 1


def _alias(
    chain: tuple[torch._ops.OpOverload, ...], feeder: torch._ops.OpOverload | None, scheme: str
) -> Iterator[Scenario]:
    """Yield the one scenario of a chain that computes what another does."""
    program = _program(FORMS[chain[0]][0], chain, feeder)
    if program is not None:
        base = Scenario(
            subject=subject_of(chain),
            scheme=scheme,
            data="generic",
            shape=FORMS[chain[0]][0].name,
            program=program,
            length=len(chain),
            checks=_PLAIN,
        )
        yield base
        yield replace(base, data="alias", checks=("E2",))


def _program(
    form: Form, chain: tuple[torch._ops.OpOverload, ...], feeder: torch._ops.OpOverload | None
) -> Program | None:
    """Put the feeder before a form and the rest of the chain behind it; None where the chain does not fit its shape."""
    program: Program | None = form.program if feeder is None else behind(feeder, form.program)
    if feeder is not None and chain[0] in POSITIVE:
        program = _far_from_zero(form, feeder)
    for target in chain[1:]:
        if program is None:
            return None
        program = FOLLOWERS[target](program)
    return program


def _far_from_zero(form: Form, feeder: torch._ops.OpOverload) -> Program:
    """Feed a function of positive numbers twice, since it magnifies the roundings of numbers near 0."""
    (call,) = form.program.calls
    feeds = (Call(feeder, (Ref("x", 0),)), Call(feeder, (Ref("v", 0),)))
    return Program(inputs=form.program.inputs, calls=(*feeds, Call(call.target, (Ref("v", 1), *call.args[1:]))))


def _rank(target: torch._ops.OpOverload) -> tuple[bool, str]:
    """Order overloads: those that change their operand last."""
    return _mutates(target), str(target)


def _mutates(target: torch._ops.OpOverload) -> bool:
    return bool(target._schema.is_mutable)


def _feeder(rows: Sequence[Row]) -> torch._ops.OpOverload | None:
    """Choose an op that the table quantizes by itself, to put before those that need a quantized operand."""
    alone = _alone(rows)
    return next((target for target in _FEEDERS if target in alone), None)


def _alone(rows: Sequence[Row]) -> set[torch._ops.OpOverload]:
    """Return the ops that a table quantizes by themselves, with qparams of their own."""
    return {target for row in rows if len(row.steps) == 1 and not row.share for target in row.steps[0].targets}


def _family(
    chain: tuple[torch._ops.OpOverload, ...], feeder: torch._ops.OpOverload | None, schemes: Sequence[str]
) -> Iterator[Scenario]:
    """Yield the scenarios of one chain of ops."""
    forms = FORMS[chain[0]]
    if len(chain) > 1:
        usual = [form for form in forms if not form.edge][:3]
        forms = (*usual, *[form for form in forms if form.edge][:2])
    first = True
    for form in forms:
        program = _program(form, chain, feeder)
        if program is None:
            continue
        base = Scenario(
            subject=subject_of(chain),
            scheme=schemes[0],
            data="generic",
            shape=form.name,
            program=program,
            length=len(chain),
            checks=_EDGE if form.edge else _FULL if first else _PLAIN,
        )
        yield base
        if first:
            yield from _sides(base)
        elif not form.edge:
            yield replace(base, data="zp_odd", checks=_TIES)
        if has_weights(chain) and not form.edge:
            for scheme in schemes[1:]:
                yield replace(base, scheme=scheme, checks=_PLAIN)
                if first:
                    yield replace(base, scheme=scheme, data="zp_odd", checks=_TIES)
        first = False
    if len(chain) == 1:
        yield from _exhaustive(chain[0], feeder, schemes[0])


def _sides(base: Scenario) -> Iterator[Scenario]:
    """Yield the further scenarios of a family's plainest form."""
    yield replace(base, data="zp_odd", checks=_TIES)
    if base.length > 1 and base.targets[-1] is not aten.relu.default:
        return  # fused with another clamp it is the same kernel
    if base.targets[-1] not in TABLE_OPS:  # a table is exhausted with one parity
        yield replace(base, data="zp_even", checks=_TIES)
    yield replace(base, data="drifting", checks=("R2",))
    if base.length > 1:
        yield replace(base, data="zp_inside", checks=_TIES)
    yield from (replace(base, data=kind, checks=("C5",)) for kind in MALFORMED)
    for kind in EXPORTS:
        # Functions of positive numbers magnify the rounding of their operand: of two calls each has another luck.
        if kind != "called_twice" or base.targets[0] not in POSITIVE:
            yield replace(base, data=kind, checks=("E2",))
    yield from _residual(base)
    last = Ref("v", len(base.program.calls) - 1)
    both = Program(
        inputs=base.program.inputs,
        parameters=base.program.parameters,
        calls=(*base.program.calls, Call(aten.relu.default, (last,))),
        outputs=(last, Ref("v", len(base.program.calls))),
    )
    yield replace(base, data="two_users", program=both, length=base.length + 1, checks=("C4",))
    if base.targets[0] not in MOVES:
        if _keeps_zero(base.program):
            yield replace(base, data="extreme_up", checks=("R1", "K1", "K7"))
        yield replace(base, data="extreme_down", checks=("R1", "K1", "K7"))
    yield replace(base, data="nonfinite", checks=("K7",))
    if has_weights(base.targets):
        yield replace(base, data="ends", checks=("R1", "K1", "K4"))
        yield replace(base, data="unequal", checks=("R1", "R2", "K1", "K6"))
        yield replace(base, data="many", checks=("K1", "K2"))
    if any(len(shape) == 4 for shape in base.program.inputs):
        yield replace(base, shape=f"{base.shape}.channels_last", channels_last=True, checks=("R1", "K1", "K5", "D2"))
    yield replace(base, data="dynamic_batch", checks=("K5",))


def _keeps_zero(program: Program) -> bool:
    """Whether inputs around 0 have results around 0: on a very small scale all others are at the ends of the range."""
    if program.parameters:
        return True
    return not program.module()(*[torch.zeros(shape) for shape in program.inputs]).any()


def _residual(base: Scenario) -> Iterator[Scenario]:
    """Yield a gemm that a skip connection goes around: add(relu(x), gemm(relu(x))), where the shapes allow it.

    Its two operands and the sum have ranges of their own; tied to one, they would cost precision.
    """
    if base.length > 1 or not has_weights(base.targets):
        return
    kept = (form for form in FORMS[base.targets[0]] if form.program.shapes()[0] == form.program.inputs[0])
    form = next((form for form in kept if not form.edge), None)
    if form is None:
        return
    (call,) = form.program.calls
    program = Program(
        inputs=form.program.inputs,
        parameters=form.program.parameters,
        calls=(Call(aten.relu.default, (Ref("x", 0),)), call.fed(), Call(aten.add.Tensor, (Ref("v", 0), Ref("v", 1)))),
    )
    yield replace(base, data="residual", shape=form.name, program=program, length=2, checks=("C3", "C4", "R2", "K1"))


def _exhaustive(target: torch._ops.OpOverload, feeder: torch._ops.OpOverload | None, scheme: str) -> Iterator[Scenario]:
    """Yield sweeps over all codes of a unary op, and over all pairs of a binary one."""
    if target in MOVES or feeder is not None:
        return
    plainest = FORMS[target][0].program
    refs = tuple(plainest.calls[0].refs())
    same = all(shape == plainest.inputs[0] for shape in plainest.inputs)
    if plainest.parameters or not same or plainest.shapes()[0] != plainest.inputs[0] or len(refs) > 2:
        return
    shapes: tuple[tuple[int, ...], ...] = ((256,),) if len(refs) == 1 else ((256, 1), (1, 256))
    program = Program(inputs=shapes, calls=plainest.calls)
    for data in ("generic", "zp_odd"):
        yield Scenario(
            subject=subject_of((target,)),
            scheme=scheme,
            data=data,
            shape="exhaustive",
            program=program,
            length=1,
            checks=("R1", "K1", "K2" if data == "generic" else "K3"),
            exhaustive=True,
        )


def has_weights(targets: tuple[torch._ops.OpOverload, ...]) -> bool:
    """Whether one of these ops multiplies by a weight."""
    return any(str(target).removeprefix("aten.").startswith(_GEMMS) for target in targets)
