"""A form is one call of an op on fresh inputs; here, how forms are made, and those of convolutions and matrix products.

Those marked `edge` are the unusual ones: one element, sizes off the SIMD width, even kernels, groups, ranks, more rows
than half the depth.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from quantizer_sdk.conformance.program import Call, Program, Ref

__all__ = ["Form", "convs", "form_of", "linears", "matmuls", "narrow_linears", "same_convs", "transposed"]

aten = torch.ops.aten
_Overload: TypeAlias = torch._ops.OpOverload
X, Y, P, B = Ref("x", 0), Ref("x", 1), Ref("p", 0), Ref("p", 1)


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


def form_of(name: str, target: _Overload, inputs: tuple[Any, ...], args: tuple[Any, ...], *params: Any) -> Form:
    """Make a form; a leading "!" in the name marks an unusual shape."""
    program = Program(inputs=inputs, parameters=params, calls=(Call(target, args),))
    return Form(name=name.removeprefix("!"), program=program, edge=name.startswith("!"))


def _space(rank: int, *sizes: int) -> tuple[int, ...]:
    """Return `rank` sizes, by repeating those given."""
    return (sizes * rank)[:rank]


def convs(target: _Overload, rank: int) -> tuple[Form, ...]:
    """Convolutions of `rank` spatial axes: arguments are stride, padding, dilation and groups."""
    space = functools.partial(_space, rank)

    def form(name: str, x: Any, w: Any, *, bias: bool = True, s: Any = 1, p: Any = 0, d: Any = 1, g: int = 1) -> Form:
        s, p, d = (value if isinstance(value, tuple) else space(value) for value in (s, p, d))
        params = (w, (w[0],)) if bias else (w,)
        return form_of(name, target, (x,), (X, P, B if bias else None, s, p, d, g), *params)

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


def same_convs(target: _Overload, rank: int) -> tuple[Form, ...]:
    """Convolutions whose padding is a word."""
    space = functools.partial(_space, rank)
    ones = space(1)

    def form(name: str, x: Any, w: Any, padding: str) -> Form:
        return form_of(name, target, (x,), (X, P, B, ones, padding, ones, 1), w, (w[0],))

    return (
        form("same", (1, 3, *space(6)), (5, 3, *space(3)), "same"),
        form("valid", (1, 3, *space(6)), (5, 3, *space(3)), "valid"),
        form("!same_even", (1, 3, *space(7)), (5, 3, *space(2)), "same"),
    )


def transposed(target: _Overload, rank: int) -> tuple[Form, ...]:
    """Transposed convolutions of `rank` spatial axes."""
    space = functools.partial(_space, rank)

    def form(name: str, x: Any, w: Any, *, bias: bool = True, s: int = 1, p: int = 0, o: int = 0, g: int = 1) -> Form:
        channels = w[1] * g
        params = (w, (channels,)) if bias else (w,)
        args = (X, P, B if bias else None, space(s), space(p), space(o), g, space(1))
        return form_of(name, target, (x,), args, *params)

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


def _linear(name: str, x: Any, out: int, *, bias: bool = True) -> Form:
    params = ((out, x[-1]), (out,)) if bias else ((out, x[-1]),)
    return form_of(name, aten.linear.default, (x,), (X, P, B if bias else None), *params)


def linears() -> tuple[Form, ...]:
    """Linear layers: few rows and many, depths off the SIMD width."""
    return (
        _linear("2d", (4, 19), 11),
        _linear("3d", (2, 5, 12), 9),
        _linear("nobias", (3, 24), 10, bias=False),
        _linear("4d", (2, 3, 4, 8), 5),
        _linear("!k1", (5, 1), 3),
        _linear("!n1", (4, 16), 1),
        _linear("!rows1", (1, 33), 8),
        _linear("!rows_over_half_k", (33, 16), 12),
        _linear("!wide", (3, 512), 10),
        _linear("!k_off_simd", (3, 67), 13),
        _linear("!one_by_one", (1, 1), 1),
        _linear("!tall", (2, 8), 130),
    )


def narrow_linears() -> tuple[Form, ...]:
    """Linear layers for weights of few bits, of which a byte holds two, and for groups of 32 along the depth."""
    return (
        _linear("k64", (5, 64), 11),
        _linear("!3d_k96_nobias", (2, 3, 96), 9, bias=False),
        _linear("!rows1_k128_n1", (1, 128), 1),
    )


def matmuls() -> dict[_Overload, tuple[Form, ...]]:
    """Matrix products by a parameter and of two activations."""

    def by(target: _Overload, name: str, left: Any, right: Any) -> Form:
        return form_of(name, target, (left,), (X, P), right)

    return {
        aten.addmm.default: (
            form_of("2d", aten.addmm.default, ((4, 9),), (B, X, P), (9, 7), (7,)),
            form_of("wide", aten.addmm.default, ((3, 65),), (B, X, P), (65, 12), (12,)),
            form_of("!k1", aten.addmm.default, ((4, 1),), (B, X, P), (1, 3), (3,)),
            form_of("!rows_over_half_k", aten.addmm.default, ((19, 8),), (B, X, P), (8, 5), (5,)),
        ),
        aten.mm.default: (by(aten.mm.default, "parameter", (4, 9), (9, 7)),),
        aten.matmul.default: (
            by(aten.matmul.default, "parameter", (4, 9), (9, 7)),
            form_of("activations", aten.matmul.default, ((4, 9), (9, 7)), (X, Y)),
            form_of("batched", aten.matmul.default, ((2, 3, 5), (2, 5, 4)), (X, Y)),
        ),
        aten.bmm.default: (form_of("activations", aten.bmm.default, ((2, 3, 5), (2, 5, 4)), (X, Y)),),
    }
