"""At least one small graph for every row of ONNX Runtime's table: shapes, modules, and the kernel that must run it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from xnnpack_rows import LINEARS, PADS, AddMM, Case, function, layer, padded_layer, relu6, with_parameter

CONVS = {
    "1d": (lambda: nn.Conv1d(6, 9, 3, padding=1), (2, 6, 11)),
    "2d": (lambda: nn.Conv2d(3, 8, 3), (2, 3, 9, 9)),
    "3d": (lambda: nn.Conv3d(2, 5, 2, stride=2), (1, 2, 6, 5, 7)),
    "1x1": (lambda: nn.Conv2d(16, 12, 1), (1, 16, 5, 7)),
    "strided_padded": (lambda: nn.Conv2d(5, 7, 3, stride=2, padding=1), (1, 5, 11, 8)),
    "dilated": (lambda: nn.Conv2d(4, 4, 3, dilation=2, bias=False), (1, 4, 9, 9)),
    "same_even": (lambda: nn.Conv2d(3, 5, 4, padding="same"), (1, 3, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8, padding=1), (1, 8, 7, 7)),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4), (1, 8, 7, 7)),
    "k1": (lambda: nn.Conv2d(1, 1, 1), (1, 1, 12, 12)),
    "large_k": (lambda: nn.Conv2d(64, 8, 3), (1, 64, 5, 5)),
}
AFTER = {"": (), "_relu": (F.relu,), "_clamp": (relu6,)}
MOVES = {
    "view": (lambda x: x.view(2, -1), (2, 3, 4), "Reshape"),
    "reshape": (lambda x: x.reshape(4, 6), (2, 3, 4), "Reshape"),
    "flatten": (lambda x: x.flatten(1), (2, 3, 2, 2), "Reshape"),
    "unflatten": (lambda x: x.unflatten(1, (2, 3)), (2, 6), "Reshape"),
    "squeeze": (lambda x: x.squeeze(1), (2, 1, 4), "Reshape"),
    "unsqueeze": (lambda x: x.unsqueeze(1), (2, 3), "Reshape"),
    "permute": (lambda x: x.permute(0, 2, 3, 1), (1, 3, 4, 5), "Transpose"),
    "transpose": (lambda x: x.transpose(1, 2), (2, 3, 4), "Transpose"),
}
PAIRS = {
    "same": ((2, 3, 4, 4),) * 2,
    "broadcast": ((2, 3, 4, 4), (1, 3, 1, 1)),
    "1d": ((40,),) * 2,
}


def _chain(x, after):
    for step in after:
        x = step(x)
    return x


def _chained(run, after):
    return function(lambda *inputs: _chain(run(*inputs), after))


def _gemms(suffix, after):
    for name, (make, shape) in CONVS.items():
        if not suffix or name in {"2d", "1d", "depthwise", "large_k"}:
            yield Case(f"conv{suffix}", name, layer(make, *after), (shape,), "QLinearConv")
    for name, (make, shape) in LINEARS.items():
        yield Case(f"linear{suffix}", name, layer(make, *after), (shape,), "QGemm")
    for row, make, shape, kernel in (
        ("conv", *CONVS["2d"], "QLinearConv"),
        ("linear", *LINEARS["2d"], "QGemm"),
    ):
        case = Case(f"{row}{suffix}", "per_tensor", layer(make, *after), (shape,), kernel, per_channel=False)
        yield case
    for name, (make, shape, pad, _) in PADS.items():
        yield Case(f"pad_conv{suffix}", name, padded_layer(make, pad, *after), (shape,), "QLinearConv")
    yield Case(f"addmm{suffix}", "2d", layer(lambda: AddMM(9, 7), *after), ((4, 9),), "QGemm")


def _binaries(suffix, after):
    for name, shapes in PAIRS.items():
        yield Case(f"add{suffix}", name, _chained(lambda a, b: a + b, after), shapes, "QLinearAdd")
        yield Case(f"mul{suffix}", name, _chained(lambda a, b: a * b, after), shapes, "QLinearMul")
    for name, shapes in {"2d": ((4, 7), (7, 5)), "batched": ((2, 3, 4, 8), (2, 3, 8, 6))}.items():
        yield Case(f"matmul{suffix}", name, _chained(torch.matmul, after), shapes, "QLinearMatMul")
    for row, shape, weight in (
        ("matmul_weight", (4, 7), (7, 5)),
        ("matmul_weight", (2, 3, 7), (7, 5)),
        ("matmul_weights", (3, 4, 7), (3, 7, 5)),
    ):
        make = with_parameter(lambda a, b: _chain(a @ b, after), *weight)
        yield Case(f"{row}{suffix}", f"{len(shape)}d", make, (shape,), "QLinearMatMul")
    yield Case(f"matmul{suffix}", "bmm", _chained(torch.bmm, after), ((3, 4, 5), (3, 5, 2)), "QLinearMatMul")
    if not suffix:
        shape = ((2, 3, 4, 4),)
        yield Case("add", "parameter", with_parameter(lambda a, b: a + b, 3, 1, 1), shape, "QLinearAdd")
        yield Case("mul", "parameter", with_parameter(lambda a, b: a * b, 3, 1, 1), shape, "QLinearMul")
        yield Case("mul", "self", function(lambda a: a * a), ((3, 9),), "QLinearMul")
        yield Case("add", "self", function(lambda a: a + a), ((3, 9),), "QLinearAdd")


def _unaries():
    for name, shape in {"7x7": (2, 5, 7, 7), "4x4": (1, 8, 4, 4), "1x1": (1, 3, 1, 1)}.items():
        kernel = "QLinearGlobalAveragePool"
        yield Case("mean", name, function(lambda x: x.mean((2, 3), keepdim=True)), (shape,), kernel)
        yield Case("mean", f"dropped-{name}", function(lambda x: x.mean((-1, -2))), (shape,), kernel)
        yield Case("global_avg_pool", name, layer(lambda: nn.AdaptiveAvgPool2d(1)), (shape,), kernel)
    for name, options in {"2x2": {"kernel_size": 2}, "padded": {"kernel_size": 3, "stride": 2, "padding": 1}}.items():
        for counted in (True, False):
            pool = layer(lambda options=options, counted=counted: nn.AvgPool2d(**options, count_include_pad=counted))
            id_ = name if counted else f"{name}-uncounted"
            yield Case("avg_pool", id_, pool, ((1, 4, 8, 9),), "QLinearAveragePool")
    for name, shape in {"4d": (2, 3, 5, 7), "1d": (33,)}.items():
        yield Case("sigmoid", name, function(torch.sigmoid), (shape,), "QLinearSigmoid")
        yield Case("leaky_relu", name, function(lambda x: F.leaky_relu(x, 0.125)), (shape,), "QLinearLeakyRelu")
    yield Case("softmax", "last", function(lambda x: x.softmax(-1)), ((4, 17),), "QLinearSoftmax")
    yield Case("softmax", "middle", function(lambda x: x.softmax(1)), ((2, 9, 5),), "QLinearSoftmax")


def _movers():
    for name, arguments in {"2x2": (2, 2, 0), "3x3s2": (3, 2, 1), "1x1s2": (1, 2, 0)}.items():
        pool = after_sigmoid(lambda x, arguments=arguments: F.max_pool2d(x, *arguments))
        yield Case("max_pool", name, pool, ((1, 3, 9, 9),), "MaxPool", exact=True)
    for name, axis, shapes in (("two", 1, ((1, 3, 4, 4), (1, 5, 4, 4))), ("five", 0, ((2, 3),) * 5)):
        join = after_sigmoid(lambda *xs, axis=axis: torch.cat(xs, axis))
        yield Case("cat", name, join, shapes, "QLinearConcat", exact=True)
    for name, run in {"front": lambda x: x[:, :2], "stepped": lambda x: x[:, :, 1:-1:2]}.items():
        yield Case("slice", name, after_sigmoid(run), ((2, 5, 6),), "Slice", exact=True)
    for name, (run, shape, kernel) in MOVES.items():
        yield Case("move", name, after_sigmoid(run), (shape,), kernel, exact=True)


def after_sigmoid(run):
    """Feed an op that only moves codes from a quantized one."""
    return function(lambda *inputs: run(*[torch.sigmoid(x) for x in inputs]))


CASES = (
    *(case for suffix, after in AFTER.items() for case in (*_gemms(suffix, after), *_binaries(suffix, after))),
    *_unaries(),
    *_movers(),
)
