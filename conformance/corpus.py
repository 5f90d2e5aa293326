"""The ops that cases are made of: for each aten overload the shapes and arguments worth trying, and how it follows.

A form is one call on fresh inputs. Those marked `edge` are the unusual ones: one element, sizes off the SIMD width,
even kernels, groups, ranks, more rows than half the depth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from quantizer_sdk.conformance.program import Call, Program, Ref

__all__ = ["FOLLOWERS", "FORMS", "MOVES", "Follower", "Form", "subject_of"]

aten = torch.ops.aten
_Overload: TypeAlias = torch._ops.OpOverload
X, Y, P, B, V = Ref("x", 0), Ref("x", 1), Ref("p", 0), Ref("p", 1), Ref("v", 0)

Follower: TypeAlias = Callable[[Program], "Program | None"]
"""Puts an op behind a program; None where the result's shape does not suit it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to call an op.

    Attributes:
        name: Names it within its overload.
        program: One call.
        edge: Whether its shape is an unusual one.
    """

    name: str
    program: Program
    edge: bool = False


def subject_of(targets: tuple[_Overload, ...]) -> str:
    """Return how case ids name a chain of ops: "aten.conv2d+aten.relu"; plain overloads go without their name."""
    return "+".join(str(target).removesuffix(".default").removesuffix(".Tensor") for target in targets)


def _form(name: str, target: _Overload, inputs: tuple[Any, ...], args: tuple[Any, ...], *params: Any) -> Form:
    """Make a form; a leading "!" in the name marks an unusual shape."""
    program = Program(inputs=inputs, parameters=params, calls=(Call(target, args),))
    return Form(name=name.removeprefix("!"), program=program, edge=name.startswith("!"))


def _space(rank: int, *sizes: int) -> tuple[int, ...]:
    """Return `rank` sizes, by repeating those given."""
    return (sizes * rank)[:rank]


def _convs(target: _Overload, rank: int) -> tuple[Form, ...]:
    """Convolutions of `rank` spatial axes: arguments are stride, padding, dilation and groups."""
    space = functools.partial(_space, rank)

    def form(name: str, x: Any, w: Any, *, bias: bool = True, s: Any = 1, p: Any = 0, d: Any = 1, g: int = 1) -> Form:
        s, p, d = (value if isinstance(value, tuple) else space(value) for value in (s, p, d))
        params = (w, (w[0],)) if bias else (w,)
        return _form(name, target, (x,), (X, P, B if bias else None, s, p, d, g), *params)

    return (
        form("3x3", (2, 3, *space(9)), (8, 3, *space(3))),
        form("1x1", (1, 16, *space(5, 7)), (12, 16, *space(1))),
        form("strided_padded", (1, 5, *space(11, 8)), (7, 5, *space(3)), s=2, p=1),
        form("dilated_nobias", (1, 4, *space(9)), (4, 4, *space(3)), bias=False, d=2),
        form("depthwise", (1, 8, *space(7)), (8, 1, *space(3)), p=1, g=8),
        form("grouped", (1, 8, *space(7)), (12, 2, *space(3)), g=4),
        form("!k1", (1, 1, *space(12)), (1, 1, *space(1))),
        form("!even_kernel", (1, 3, *space(8, 7)), (4, 3, *space(2, 4)), p=space(1, 2)),
        form("!large_k", (1, 64, *space(5)), (8, 64, *space(3))),
        form("!off_simd", (3, 17, *space(4)), (19, 17, *space(1))),
        form("!uneven_stride", (1, 6, *space(9, 10)), (5, 6, *space(3, 2)), s=space(2, 1), p=space(0, 1)),
        form("!depth_multiplier", (1, 4, *space(6)), (8, 1, *space(3)), g=4),
        form("!one_pixel", (1, 8, *space(1)), (8, 8, *space(1))),
        form("!wide_kernel", (1, 3, *space(9)), (4, 3, *space(7)), p=3),
        form("!padding_only", (1, 2, *space(1)), (3, 2, *space(3)), p=1),
        form("!dilated_padded", (1, 4, *space(8)), (6, 4, *space(3)), p=2, d=2),
        form("!batch_5", (5, 3, *space(5)), (7, 3, *space(2))),
    )


def _same_convs(target: _Overload, rank: int) -> tuple[Form, ...]:
    space = functools.partial(_space, rank)
    ones = space(1)

    def form(name: str, x: Any, w: Any, padding: str) -> Form:
        return _form(name, target, (x,), (X, P, B, ones, padding, ones, 1), w, (w[0],))

    return (
        form("same", (1, 3, *space(6)), (5, 3, *space(3)), "same"),
        form("valid", (1, 3, *space(6)), (5, 3, *space(3)), "valid"),
        form("!same_even", (1, 3, *space(7)), (5, 3, *space(2)), "same"),
    )


def _transposed(target: _Overload, rank: int) -> tuple[Form, ...]:
    space = functools.partial(_space, rank)

    def form(name: str, x: Any, w: Any, *, bias: bool = True, s: int = 1, p: int = 0, o: int = 0, g: int = 1) -> Form:
        channels = w[1] * g
        params = (w, (channels,)) if bias else (w,)
        args = (X, P, B if bias else None, space(s), space(p), space(o), g, space(1))
        return _form(name, target, (x,), args, *params)

    return (
        form("3x3s2", (1, 4, *space(5)), (4, 6, *space(3)), s=2),
        form("output_padding", (2, 5, *space(4)), (5, 3, *space(4)), s=2, p=1, o=1),
        form("nobias", (1, 3, *space(6)), (3, 5, *space(3)), bias=False),
        form("groups2", (1, 4, *space(5)), (4, 3, *space(3)), g=2),
        form("!1x1", (1, 9, *space(5)), (9, 7, *space(1))),
        form("!k2s2", (1, 4, *space(3)), (4, 8, *space(2)), s=2),
        form("!one_pixel", (1, 6, *space(1)), (6, 5, *space(3))),
        form("!stride_over_kernel", (1, 3, *space(4)), (3, 4, *space(2)), s=3),
    )


def _linears() -> tuple[Form, ...]:
    def form(name: str, x: Any, out: int, *, bias: bool = True) -> Form:
        params = ((out, x[-1]), (out,)) if bias else ((out, x[-1]),)
        return _form(name, aten.linear.default, (x,), (X, P, B if bias else None), *params)

    return (
        form("2d", (4, 19), 11),
        form("3d", (2, 5, 12), 9),
        form("nobias", (3, 24), 10, bias=False),
        form("4d", (2, 3, 4, 8), 5),
        form("!k1", (5, 1), 3),
        form("!n1", (4, 16), 1),
        form("!rows1", (1, 33), 8),
        form("!rows_over_half_k", (33, 16), 12),
        form("!wide", (3, 512), 10),
        form("!k_off_simd", (3, 67), 13),
        form("!one_by_one", (1, 1), 1),
        form("!tall", (2, 8), 130),
    )


def _matmuls() -> dict[_Overload, tuple[Form, ...]]:
    def by(target: _Overload, name: str, left: Any, right: Any) -> Form:
        return _form(name, target, (left,), (X, P), right)

    return {
        aten.addmm.default: (
            _form("2d", aten.addmm.default, ((4, 9),), (B, X, P), (9, 7), (7,)),
            _form("wide", aten.addmm.default, ((3, 65),), (B, X, P), (65, 12), (12,)),
            _form("!k1", aten.addmm.default, ((4, 1),), (B, X, P), (1, 3), (3,)),
            _form("!rows_over_half_k", aten.addmm.default, ((19, 8),), (B, X, P), (8, 5), (5,)),
        ),
        aten.mm.default: (by(aten.mm.default, "parameter", (4, 9), (9, 7)),),
        aten.matmul.default: (
            by(aten.matmul.default, "parameter", (4, 9), (9, 7)),
            _form("activations", aten.matmul.default, ((4, 9), (9, 7)), (X, Y)),
            _form("batched", aten.matmul.default, ((2, 3, 5), (2, 5, 4)), (X, Y)),
        ),
        aten.bmm.default: (_form("activations", aten.bmm.default, ((2, 3, 5), (2, 5, 4)), (X, Y)),),
    }


def _binaries(target: _Overload) -> tuple[Form, ...]:
    image = (2, 3, 4, 4)
    alone = () if "sub" in str(target) else (_form("self", target, ((3, 9),), (X, X)),)
    crossed = () if target._schema.is_mutable else (_form("!row_by_column", target, ((4, 1), (1, 5)), (X, Y)),)
    return (
        _form("4d", target, (image, image), (X, Y)),
        _form("broadcast", target, (image, (1, 3, 1, 1)), (X, Y)),
        _form("1d", target, ((40,), (40,)), (X, Y)),
        _form("parameter", target, (image,), (X, P), (3, 1, 1)),
        *alone,
        _form("!one_element_side", target, ((5, 7), (1,)), (X, Y)),
        _form("!off_simd", target, ((67,), (67,)), (X, Y)),
        _form("!6d", target, ((1, 2, 1, 3, 2, 2),) * 2, (X, Y)),
        _form("!2d_long", target, ((2, 259), (2, 259)), (X, Y)),
        *crossed,
    )


def _unaries(target: _Overload, *args: Any) -> tuple[Form, ...]:
    return (
        _form("4d", target, ((2, 3, 5, 7),), (X, *args)),
        _form("1d", target, ((33,),), (X, *args)),
        _form("2d", target, ((3, 16),), (X, *args)),
        _form("!off_simd", target, ((259,),), (X, *args)),
        _form("!one_element", target, ((1, 1),), (X, *args)),
        _form("!6d", target, ((1, 2, 1, 3, 2, 2),), (X, *args)),
    )


def _each(target: _Overload, **forms: tuple[Any, ...]) -> tuple[Form, ...]:
    """Forms of one operand: name=(shape, further arguments); a trailing underscore marks an unusual shape."""
    return tuple(
        _form(f"!{name[:-1]}" if name.endswith("_") else name, target, (shape,), (X, *args))
        for name, (shape, *args) in forms.items()
    )


def _cats(target: _Overload) -> tuple[Form, ...]:
    def form(name: str, axis: int, *shapes: Any) -> Form:
        return _form(name, target, shapes, (tuple(Ref("x", i) for i in range(len(shapes))), axis))

    return (
        form("two", 1, (1, 3, 4, 4), (1, 5, 4, 4)),
        form("three", -1, (2, 3), (2, 4), (2, 1)),
        form("five", 0, *((2, 3),) * 5),
        form("!1d", 0, (7,), (12,)),
        form("!seven", 1, *((2, 3),) * 7),
        _form("!itself", target, ((2, 3),), ((X, X), 1)),
    )


def _clamps() -> dict[_Overload, tuple[Form, ...]]:
    tails: dict[_Overload, tuple[Any, ...]] = {
        aten.relu.default: (),
        aten.relu_.default: (),
        aten.relu6.default: (),
        aten.relu6_.default: (),
        aten.hardtanh.default: (0.0, 6.0),
        aten.hardtanh_.default: (0.0, 6.0),
        aten.clamp.default: (-1.0, 1.5),
        aten.clamp_.default: (-1.0, 1.5),
        aten.clamp_min.default: (-0.5,),
        aten.clamp_max.default: (0.75,),
    }
    return {target: _unaries(target, *args) for target, args in tails.items()}


_IMAGE = (1, 3, 9, 9)
_TABLE_OPS = (
    aten.sigmoid.default,
    aten.tanh.default,
    aten.gelu.default,
    aten.hardswish.default,
    aten.silu.default,
    aten.leaky_relu.default,
    aten.hardsigmoid.default,
    aten.elu.default,
    aten.neg.default,
    aten.abs.default,
    aten.square.default,
    aten.exp.default,
)

_CLAMPS = _clamps()

FORMS: Mapping[_Overload, tuple[Form, ...]] = MappingProxyType(
    {
        aten.conv1d.default: _convs(aten.conv1d.default, 1),
        aten.conv2d.default: _convs(aten.conv2d.default, 2),
        aten.conv3d.default: _convs(aten.conv3d.default, 3)[:6],
        aten.conv1d.padding: _same_convs(aten.conv1d.padding, 1),
        aten.conv2d.padding: _same_convs(aten.conv2d.padding, 2),
        aten.conv_transpose1d.default: _transposed(aten.conv_transpose1d.default, 1),
        aten.conv_transpose2d.input: _transposed(aten.conv_transpose2d.input, 2),
        aten.linear.default: _linears(),
        **_matmuls(),
        **{
            target: _binaries(target)
            for target in (
                aten.add.Tensor,
                aten.add_.Tensor,
                aten.sub.Tensor,
                aten.sub_.Tensor,
                aten.mul.Tensor,
                aten.mul_.Tensor,
            )
        },
        **_CLAMPS,
        **{target: _unaries(target) for target in _TABLE_OPS},
        aten.mean.dim: _each(
            aten.mean.dim,
            m7x7=((2, 5, 7, 7), (2, 3), True),
            m4x4=((1, 8, 4, 4), (2, 3), True),
            dropped=((1, 6, 5, 4), (-1, -2)),
            one_pixel_=((1, 3, 1, 1), (2, 3), True),
            large_=((1, 2, 17, 19), (2, 3), True),
            off_simd_=((2, 67, 3, 3), (2, 3), True),
        ),
        aten.adaptive_avg_pool2d.default: _each(
            aten.adaptive_avg_pool2d.default,
            a7x7=((2, 5, 7, 7), (1, 1)),
            a4x4=((1, 8, 4, 4), (1, 1)),
            uneven_=((1, 3, 5, 2), (1, 1)),
            to_two_=((1, 3, 4, 4), (2, 2)),
        ),
        aten.avg_pool2d.default: _each(
            aten.avg_pool2d.default,
            a2x2=((1, 3, 8, 8), (2, 2)),
            padded_=((1, 3, 7, 7), (3, 3), (2, 2), (1, 1)),
        ),
        aten.max_pool2d.default: _each(
            aten.max_pool2d.default,
            p2x2=(_IMAGE, (2, 2), (2, 2)),
            p3x3s2=(_IMAGE, (3, 3), (2, 2), (1, 1)),
            s1=(_IMAGE, (2, 2), (1, 1)),
            dilated_=(_IMAGE, (2, 2), (1, 1), (0, 0), (2, 2)),
            one_row_=((1, 2, 1, 8), (1, 3), (1, 2)),
            skips_=(_IMAGE, (2, 2), (3, 3)),
        ),
        aten.cat.default: _cats(aten.cat.default),
        aten.concat.default: _cats(aten.concat.default)[:1],
        aten.concatenate.default: _cats(aten.concatenate.default)[:1],
        aten.pad.default: _each(
            aten.pad.default,
            even=((1, 3, 6, 6), (1, 1, 1, 1)),
            uneven=((1, 3, 6, 6), (0, 1, 0, 1)),
            p1d=((1, 4, 9), (1, 2)),
        ),
        aten.constant_pad_nd.default: _each(aten.constant_pad_nd.default, even=((1, 3, 6, 6), (1, 1, 1, 1))),
        aten.slice.Tensor: _each(
            aten.slice.Tensor,
            front=((2, 5, 6), 1, 0, 2),
            back=((2, 5, 6), 2, 1, -1),
            step2_=((2, 5, 6), 2, 0, 6, 2),
            one_=((3, 4), 0, 1, 2),
        ),
        aten.view.default: _each(aten.view.default, flat=((2, 3, 4), (2, -1)), split_=((6, 4), (2, 3, 4))),
        aten.reshape.default: _each(
            aten.reshape.default,
            mixed=((2, 3, 4), (4, 6)),
            rank5_=((2, 3, 4, 4), (2, 3, 2, 2, 4)),
            flat_=((12,), (-1,)),
        ),
        aten.flatten.using_ints: _each(aten.flatten.using_ints, head=((2, 3, 2, 2), 1), all_=((2, 3, 2), 0)),
        aten.unflatten.int: _each(aten.unflatten.int, split=((2, 6), 1, (2, 3))),
        aten.squeeze.dim: _each(aten.squeeze.dim, middle=((2, 1, 4), 1)),
        aten.unsqueeze.default: _each(aten.unsqueeze.default, middle=((2, 3), 1), last=((2, 3), -1)),
        aten.permute.default: _each(
            aten.permute.default, nhwc=((1, 3, 4, 5), (0, 2, 3, 1)), reverse_=((2, 3, 4, 5), (3, 2, 1, 0))
        ),
        aten.transpose.int: _each(aten.transpose.int, last=((2, 3, 4), 1, 2), first_=((5, 7), 0, 1)),
        aten.t.default: _each(aten.t.default, matrix=((3, 5),)),
        aten.contiguous.default: _each(aten.contiguous.default, after=((2, 3, 4),)),
        aten.clone.default: _each(aten.clone.default, after=((2, 3, 4),)),
        aten._unsafe_view.default: _each(aten._unsafe_view.default, flat=((2, 3, 4), (2, 12))),
        aten.softmax.int: _each(aten.softmax.int, last=((3, 10), -1), rank4_=((1, 2, 3, 5), -1)),
    }
)
"""Every op the suite knows, with its forms: the plainest first."""

MOVES = frozenset(
    {
        aten.max_pool2d.default,
        aten.cat.default,
        aten.concat.default,
        aten.concatenate.default,
        aten.pad.default,
        aten.constant_pad_nd.default,
        aten.slice.Tensor,
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.squeeze.dim,
        aten.unsqueeze.default,
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.contiguous.default,
        aten.clone.default,
    }
)
"""Ops that compute nothing: quantized, they move codes, and operands and result have the same qparams."""


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
        **{target: _by_arguments(target) for target in (*_CLAMPS, *_TABLE_OPS)},
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
