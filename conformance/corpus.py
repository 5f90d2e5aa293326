"""The ops that cases are made of: for each aten overload the shapes and arguments worth trying."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from quantizer_sdk.conformance.forms import Form, convs, form_of, linears, matmuls, same_convs, transposed
from quantizer_sdk.conformance.program import Ref

__all__ = ["CLAMPS", "FORMS", "MOVES", "POSITIVE", "TABLE_OPS"]

aten = torch.ops.aten
_Overload: TypeAlias = torch._ops.OpOverload
X, Y, P = Ref("x", 0), Ref("x", 1), Ref("p", 0)


def _binaries(target: _Overload) -> tuple[Form, ...]:
    image = (2, 3, 4, 4)
    alone = () if "sub" in str(target) else (form_of("self", target, ((3, 9),), (X, X)),)
    crossed = () if target._schema.is_mutable else (form_of("!row_by_column", target, ((4, 1), (1, 5)), (X, Y)),)
    return (
        form_of("4d", target, (image, image), (X, Y)),
        form_of("broadcast", target, (image, (1, 3, 1, 1)), (X, Y)),
        form_of("1d", target, ((40,), (40,)), (X, Y)),
        form_of("parameter", target, (image,), (X, P), (3, 1, 1)),
        *alone,
        form_of("!number", target, (image,), (X, 1.5)),
        form_of("!one_element_side", target, ((5, 7), (1,)), (X, Y)),
        form_of("!off_simd", target, ((67,), (67,)), (X, Y)),
        form_of("!6d", target, ((1, 2, 1, 3, 2, 2),) * 2, (X, Y)),
        form_of("!2d_long", target, ((2, 259), (2, 259)), (X, Y)),
        *crossed,
    )


def _unaries(target: _Overload, *args: Any) -> tuple[Form, ...]:
    return (
        form_of("4d", target, ((2, 3, 5, 7),), (X, *args)),
        form_of("1d", target, ((33,),), (X, *args)),
        form_of("2d", target, ((3, 16),), (X, *args)),
        form_of("!off_simd", target, ((259,),), (X, *args)),
        form_of("!one_element", target, ((1, 1),), (X, *args)),
        form_of("!6d", target, ((1, 2, 1, 3, 2, 2),), (X, *args)),
    )


def _functions(target: _Overload) -> tuple[Form, ...]:
    """Fewer shapes than other ops of one operand have: every code is tried, and a table knows no shapes."""
    kept = {"4d", "1d", "off_simd", "6d"}
    return tuple(form for form in _unaries(target) if form.name in kept)


def _each(target: _Overload, **forms: tuple[Any, ...]) -> tuple[Form, ...]:
    """Forms of one operand: name=(shape, further arguments); a trailing underscore marks an unusual shape."""
    return tuple(
        form_of(f"!{name[:-1]}" if name.endswith("_") else name, target, (shape,), (X, *args))
        for name, (shape, *args) in forms.items()
    )


def _cats(target: _Overload) -> tuple[Form, ...]:
    def form(name: str, axis: int, *shapes: Any) -> Form:
        return form_of(name, target, shapes, (tuple(Ref("x", i) for i in range(len(shapes))), axis))

    return (
        form("two", 1, (1, 3, 4, 4), (1, 5, 4, 4)),
        form("three", -1, (2, 3), (2, 4), (2, 1)),
        form("five", 0, *((2, 3),) * 5),
        form("!1d", 0, (7,), (12,)),
        form("!seven", 1, *((2, 3),) * 7),
        form_of("!itself", target, ((2, 3),), ((X, X), 1)),
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
TABLE_OPS = (
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
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.ceil.default,
    aten.floor.default,
    aten.log.default,
    aten.sin.default,
    aten.cos.default,
)
"""Functions of one number."""

POSITIVE = frozenset({aten.sqrt.default, aten.rsqrt.default, aten.log.default})
"""Functions of positive numbers."""

CLAMPS = _clamps()
"""The forms of ops that cut numbers at bounds."""

FORMS: Mapping[_Overload, tuple[Form, ...]] = MappingProxyType(
    {
        aten.conv1d.default: convs(aten.conv1d.default, 1),
        aten.conv2d.default: convs(aten.conv2d.default, 2),
        aten.conv3d.default: convs(aten.conv3d.default, 3)[:6],
        aten.conv1d.padding: same_convs(aten.conv1d.padding, 1),
        aten.conv2d.padding: same_convs(aten.conv2d.padding, 2),
        aten.conv_transpose1d.default: transposed(aten.conv_transpose1d.default, 1),
        aten.conv_transpose2d.input: transposed(aten.conv_transpose2d.input, 2),
        aten.linear.default: linears(),
        **matmuls(),
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
        **CLAMPS,
        **{target: _functions(target) for target in TABLE_OPS},
        aten.div.Tensor: _each(aten.div.Tensor, number=((2, 3, 4, 4), 3.0)),
        aten.rsub.Scalar: _each(aten.rsub.Scalar, number=((2, 3, 4, 4), 1.5)),
        aten.pow.Tensor_Scalar: _each(aten.pow.Tensor_Scalar, squared=((2, 3, 4, 4), 2)),
        aten.mean.dim: _each(
            aten.mean.dim,
            m7x7=((2, 5, 7, 7), (2, 3), True),
            m4x4=((1, 8, 4, 4), (2, 3), True),
            dropped=((1, 6, 5, 4), (-1, -2)),
            one_pixel_=((1, 3, 1, 1), (2, 3), True),
            large_=((1, 2, 17, 19), (2, 3), True),
            signal_=((2, 5, 9), (-1,)),
            off_simd_=((2, 67, 3, 3), (2, 3), True),
        ),
        aten.adaptive_avg_pool2d.default: _each(
            aten.adaptive_avg_pool2d.default,
            a7x7=((2, 5, 7, 7), (1, 1)),
            a4x4=((1, 8, 4, 4), (1, 1)),
            uneven_=((1, 3, 5, 2), (1, 1)),
            to_two_=((1, 3, 4, 4), (2, 2)),
        ),
        aten.adaptive_avg_pool1d.default: _each(aten.adaptive_avg_pool1d.default, a9=((2, 5, 9), (1,))),
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
