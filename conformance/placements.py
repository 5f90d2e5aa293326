"""How each op of the corpus is put on a value of any shape: its further operands, its parameters and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from quantizer_sdk.conformance.choices import Choices
from quantizer_sdk.conformance.corpus import FORMS, MOVES, POSITIVE
from quantizer_sdk.conformance.draft import Draft
from quantizer_sdk.conformance.program import Ref

__all__ = ["place", "place_again"]

aten = torch.ops.aten
_Overload: TypeAlias = torch._ops.OpOverload
_Placement: TypeAlias = Callable[[Draft, Choices, _Overload, Ref], "Ref | None"]

_MOST_INPUTS = 3
_GLOBAL = ("mean", "adaptive_avg_pool2d")
_PADS = ("pad", "constant_pad_nd")
_CLAMPS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max")


def place(draft: Draft, choices: Choices, target: _Overload, operand: Ref, *, leads: bool = False) -> Ref | None:
    """Put an op on a value.

    Args:
        draft: Grows by the call, and by what parameters and inputs it needs.
        choices: Decide what is open.
        target: An op of `FORMS`.
        operand: What it reads first.
        leads: Whether a pattern goes on with its result: padding is then one of the axes that a convolution slides on.

    Returns:
        Its result; None where the value does not suit the op.
    """
    if not _may_read(draft, target, operand):
        return None
    if leads and _name(target) in _PADS:
        return _pad(draft, choices, target, operand, len(draft.shape(operand)) - 2)
    placement = _PLACEMENTS.get(target, _as_in_corpus)
    return placement(draft, choices, target, operand)


def place_again(draft: Draft, choices: Choices) -> Ref | None:
    """Call one of the layers once more, with the parameters that it has, on another value; None where none suits."""
    layers = [call for call in draft.calls if any(ref.kind == "p" for ref in call.refs())]
    for layer in choices.order(layers, "layer"):
        read = next(argument for argument in layer.args if isinstance(argument, Ref) and argument.kind != "p")
        for value in choices.order(draft.values(), "value"):
            args = (value if argument == read else argument for argument in layer.args)
            alike = draft.shape(value)[1:2] == draft.shape(read)[1:2]  # meta tensors let wrong channels pass
            allowed = value != read and alike and _may_read(draft, layer.target, value)
            result = draft.call(layer.target, *args) if allowed else None
            if result is not None:
                return result
    return None


_UNPLACED = frozenset({aten.exp.default, aten.ceil.default, aten.floor.default})


def _may_read(draft: Draft, target: _Overload, operand: Ref) -> bool:
    """Whether an op may stand on a value whatever its shape.

    An op that moves codes needs some to move, so it follows a call. One that writes over its operand takes a result
    that nothing else reads and that is no view. A clamp behind a clamp may leave nothing but one value. Functions of
    positive numbers, and exp, give NaN or infinity on operands of unknown range; ceil and floor jump where an operand's
    own error crosses a whole number.
    """
    if target in POSITIVE or target in _UNPLACED:
        return False
    maker = draft.target_of(operand)
    if target._schema.is_mutable and (maker is None or maker in MOVES or operand not in draft.unread()):
        return False
    return target not in MOVES if maker is None else not (_is_clamp(target) and _is_clamp(maker))


def _is_clamp(target: _Overload) -> bool:
    return _name(target).rstrip("_") in _CLAMPS


def _name(target: _Overload) -> str:
    return str(target).split(".")[1]


def _as_in_corpus(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    """Give further arguments as one of the corpus's usual forms has them.

    Where the corpus has one rank only, seldom without its batch axis; and not too often what leaves little of an image.
    """
    usual = [form.program for form in FORMS[target] if not form.edge and not form.program.parameters]
    tails = dict.fromkeys(form.calls[0].args[1:] for form in usual if len(form.inputs) == 1)
    rank, ranks = len(draft.shape(operand)), {len(form.inputs[0]) for form in usual}
    if len(ranks) == 1 and rank not in ranks and not (rank + 1 in ranks and choices.chance(10, "unbatched")):
        return None
    if _name(target) in _GLOBAL and not choices.chance(40, "global"):
        return None
    for tail in choices.order(tails, "arguments"):
        result = draft.call(target, operand, *tail)
        if result is not None:
            return result
    return None


def _conv(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    rank = int(_name(target)[4])
    shape = draft.shape(operand)
    if len(shape) != rank + 2:
        return None
    channels, space = shape[1], shape[2:]
    kernel = tuple(min(size, choices.between(1, 3, "kernel", axis)) for axis, size in enumerate(space))
    groups = choices.pick((1, 1, 1, channels, 2 if channels % 2 == 0 else 1), "groups")
    features = groups * choices.between(1, 3 if groups > 1 else 8, "features")
    weight = draft.parameter(features, channels // groups, *kernel)
    bias = draft.parameter(features) if choices.chance(70, "bias") else None
    if target._overloadname == "padding":
        odd = all(size % 2 for size in kernel)
        padding = choices.pick(("same", "valid"), "padding") if odd else "valid"
        return draft.call(target, operand, weight, bias, (1,) * rank, padding, (1,) * rank, groups)
    strides = tuple(choices.pick((1, 1, 2), "stride", axis) for axis in range(rank))
    pads = tuple(choices.below(1 + size // 2, "padding", axis) for axis, size in enumerate(kernel))
    dilation = 2 if choices.chance(15, "dilation") else 1
    return draft.call(target, operand, weight, bias, strides, pads, (dilation,) * rank, groups)


def _transposed_conv(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    rank = int(_name(target)[14])
    shape = draft.shape(operand)
    if len(shape) != rank + 2:
        return None
    channels = shape[1]
    kernel = tuple(choices.between(1, 3, "kernel", axis) for axis in range(rank))
    groups = 2 if channels % 2 == 0 and choices.chance(20, "groups") else 1
    features = choices.between(1, 6, "features")
    weight = draft.parameter(channels, features, *kernel)
    bias = draft.parameter(features * groups) if choices.chance(70, "bias") else None
    stride = choices.pick((1, 2), "stride")
    zeros = (0,) * rank
    return draft.call(target, operand, weight, bias, (stride,) * rank, zeros, zeros, groups, (1,) * rank)


def _linear(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    shape = draft.shape(operand)
    if len(shape) < 2:
        return None
    features = choices.between(1, 9, "features")
    weight = draft.parameter(features, shape[-1])
    bias = draft.parameter(features) if choices.chance(70, "bias") else None
    return draft.call(target, operand, weight, bias)


def _matrix_product(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    """Multiply by a parameter, or by an earlier value or a new input where the op takes two activations."""
    shape = draft.shape(operand)
    if len(shape) < 2 or (len(shape) != 2 and target in {aten.addmm.default, aten.mm.default}):
        return None
    features = choices.between(2, 9, "features")
    if target is aten.addmm.default:
        bias = draft.parameter(features)
        return draft.call(target, bias, operand, draft.parameter(shape[-1], features))
    if target is aten.mm.default or (target is aten.matmul.default and choices.chance(40, "by a parameter")):
        return draft.call(target, operand, draft.parameter(shape[-1], features))
    for other in choices.order(draft.values(), "right"):
        result = draft.call(target, operand, other) if len(draft.shape(other)) == len(shape) else None
        if result is not None:
            return result
    return _with_input(draft, target, (operand,), (*shape[:-2], shape[-1], features))


def _binary(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    """Join with an earlier value, most often of the same shape; else with a new input, a parameter, or itself."""
    shape = draft.shape(operand)
    alike = [ref for ref in draft.values() if ref != operand and draft.shape(ref) == shape]
    kinds = ["value"] * 4 + ["broadcast", "input", "input", "parameter"] + ["itself"] * ("sub" not in str(target))
    for place_, kind in enumerate(choices.order([f"{kind} {n}" for n, kind in enumerate(kinds)], "kind")):
        what = kind.split()[0]
        if what == "value" and alike:
            return draft.call(target, operand, choices.pick(alike, "other"))
        if what == "broadcast":
            result = _broadcast(draft, choices.within(place_), target, operand)
            if result is not None:
                return result
        if what == "input" and draft.inputs < _MOST_INPUTS:
            return _with_input(draft, target, (operand,), shape)
        if what == "parameter":
            channel = tuple(size if axis == 1 else 1 for axis, size in enumerate(shape)) if len(shape) > 1 else shape
            return draft.call(target, operand, draft.parameter(*channel))
        if what == "itself":
            return draft.call(target, operand, operand)
    return None


def _broadcast(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    """Join with a value of another shape that fits, and leaves the operand's as it is."""
    shape = draft.shape(operand)
    smaller = [ref for ref in draft.values() if draft.shape(ref) != shape and _fits(draft.shape(ref), shape)]
    return draft.call(target, operand, choices.pick(smaller, "other")) if smaller else None


def _fits(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) <= len(large) and all(a in {1, b} for a, b in zip(reversed(small), reversed(large), strict=False))


def _with_input(draft: Draft, target: _Overload, before: tuple[Ref, ...], shape: tuple[int, ...]) -> Ref | None:
    if draft.inputs >= _MOST_INPUTS:
        return None
    return draft.call(target, *before, draft.input(shape))


def _cat(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    """Join results, of different sizes along the axis where there are such."""
    shape = draft.shape(operand)
    axis = choices.below(len(shape), "axis")
    others = [
        ref
        for ref in draft.values()
        if ref.kind == "v" and _without(draft.shape(ref), axis) == _without(shape, axis)
        if ref != operand and len(draft.shape(ref)) == len(shape)
    ]
    if not others:
        return None
    count = choices.between(1, min(3, len(others)), "count")
    parts = (operand, *choices.order(others, "parts")[:count])
    return draft.call(target, choices.pick((parts, parts[::-1]), "order"), axis)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _view(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    """Split an axis in two, or make one of two."""
    shape = draft.shape(operand)
    axis = choices.below(len(shape), "axis")
    factors = [size for size in (2, 3) if shape[axis] % size == 0 and shape[axis] > size]
    if len(shape) < 5 and factors and choices.chance(50, "split"):
        factor = choices.pick(factors, "factor")
        return draft.call(target, operand, (*shape[:axis], factor, shape[axis] // factor, *shape[axis + 1 :]))
    if len(shape) == 1:
        return None
    first = min(axis, len(shape) - 2)
    sizes = (*shape[:first], shape[first] * shape[first + 1], *shape[first + 2 :])
    whole = tuple(-1 if place_ == first else size for place_, size in enumerate(sizes))
    return draft.call(target, operand, choices.pick((sizes, whole), "inferred"))


def _move(draft: Draft, choices: Choices, target: _Overload, operand: Ref) -> Ref | None:
    """Give the arguments of an op that moves codes, for any rank."""
    shape = draft.shape(operand)
    axis, rank = choices.below(len(shape), "axis"), len(shape)
    name = _name(target)
    args: tuple[Any, ...] | None = None
    if name == "flatten":
        args = (min(axis, 1), choices.pick((-1, rank - 1), "end")) if rank > 1 else None
    elif name == "unflatten":
        args = (axis, (2, shape[axis] // 2)) if shape[axis] % 2 == 0 and rank < 5 else None
    elif name == "squeeze":
        args = next(((place_,) for place_, size in enumerate(shape) if size == 1 and rank > 1), None)
    elif name == "unsqueeze":
        args = (choices.pick((axis, -1), "end"),) if rank < 5 else None
    elif name == "permute":
        args = (tuple(choices.order(range(rank), "axes")),) if rank > 1 else None
    elif name == "transpose":
        args = (axis, (axis + 1) % rank) if rank > 1 else None
    elif name == "slice":
        start = choices.below(1 + shape[axis] // 2, "start")
        args = (axis, start, choices.between(start + 1, shape[axis], "end"))
    elif name in _PADS:
        return _pad(draft, choices, target, operand, min(2, rank))
    return None if args is None else draft.call(target, operand, *args)


def _pad(draft: Draft, choices: Choices, target: _Overload, operand: Ref, most: int) -> Ref | None:
    """Pad one of the last axes, or so many of them, by 0 to 2 on either side."""
    if most < 1:
        return None
    sizes = tuple(choices.below(3, "pad", end) for end in range(2 * choices.between(1, most, "padded")))
    return draft.call(target, operand, sizes if any(sizes) else (1, *sizes[1:]))


def _placements() -> dict[_Overload, _Placement]:
    """Return the placements of those ops that the corpus's arguments do not suit in any shape."""
    kinds: tuple[tuple[_Placement, tuple[str, ...]], ...] = (
        (_conv, ("conv1d", "conv2d", "conv3d")),
        (_transposed_conv, ("conv_transpose1d", "conv_transpose2d")),
        (_linear, ("linear",)),
        (_matrix_product, ("addmm", "mm", "matmul", "bmm")),
        (_binary, ("add", "add_", "sub", "sub_", "mul", "mul_")),
        (_cat, ("cat", "concat", "concatenate")),
        (_view, ("view", "reshape", "_unsafe_view")),
        (_move, ("flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "slice")),
        (_move, _PADS),
    )
    by_name = {name: placement for placement, names in kinds for name in names}
    return {target: by_name[_name(target)] for target in FORMS if _name(target) in by_name}


_PLACEMENTS: Mapping[_Overload, _Placement] = MappingProxyType(_placements())
