"""At least one small graph for every row of XNNPACK's table: shapes, modules, and the kernel that must run it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name


class Apply(nn.Module):
    """Calls a function of the inputs and of named submodules."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs):
        return self.function(self, *inputs)


@dataclass(frozen=True)
class Case:
    """One row on one shape.

    Attributes:
        row: The row's name.
        id: What is particular to the case.
        make: Makes the module.
        shapes: One input shape an input.
        kernel: The XNNPACK node that must be among those that ran.
        exact: Whether the op moves or clamps codes, so that kernel, graph and oracle agree in every code.
        per_channel: Whether weights have a scale for each channel.
        chained: Whether two ops requantize in turn, so that a tie decided one way in the first shows in the second.
    """

    row: str
    id: str
    make: object
    shapes: tuple
    kernel: str
    exact: bool = False
    per_channel: bool = True
    chained: bool = False


def layer(module, *after):
    def run(m, x):
        x = m.layer(x)
        for function in after:
            x = function(x)
        return x

    return lambda: Apply(run, layer=module())


def after_relu(function, *inputs):
    """Feed an op that only moves codes from a quantized one."""
    return lambda: Apply(lambda m, *xs: function(*[F.relu(x) for x in xs]))


def padded_layer(module, pad, *after):
    return lambda: Apply(lambda m, x: _chain(m.layer(F.pad(x, pad)), after), layer=module())


def max_pool(*arguments):
    return after_relu(lambda x: F.max_pool2d(x, *arguments))


def cat(axis):
    return after_relu(lambda *xs: torch.cat(xs, axis))


def with_parameter(run, *shape):
    return lambda: WithTensor(run, *shape)


def function(run):
    return lambda: Apply(lambda m, *xs: run(*xs))


class WithTensor(nn.Module):
    def __init__(self, run, *shape):
        super().__init__()
        self.run = run
        self.other = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return self.run(x, self.other)


class AddMM(nn.Module):
    def __init__(self, k, n):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(k, n)), nn.Parameter(torch.randn(n))

    def forward(self, x):
        return torch.addmm(self.b, x, self.w)


def relu6(x):
    return F.hardtanh(x, 0.0, 6.0)


ACTIVATIONS = {"": (), "_relu": (F.relu,), "_relu6": (relu6,)}
CONVS = {
    "3x3": (lambda: nn.Conv2d(3, 8, 3), (2, 3, 9, 9), "Conv2d"),
    "1x1": (lambda: nn.Conv2d(16, 12, 1), (1, 16, 5, 7), "Conv2d"),
    "strided_padded": (lambda: nn.Conv2d(5, 7, 3, stride=2, padding=1, dilation=1), (1, 5, 11, 8), "Conv2d"),
    "dilated": (lambda: nn.Conv2d(4, 4, 3, dilation=2, bias=False), (1, 4, 9, 9), "Conv2d"),
    "same": (lambda: nn.Conv2d(3, 5, 3, padding="same"), (1, 3, 6, 6), "Conv2d"),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8, padding=1), (1, 8, 7, 7), "DepthwiseConv2d"),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4), (1, 8, 7, 7), "Conv2d"),
    "1d": (lambda: nn.Conv1d(6, 9, 3, padding=1), (2, 6, 11), "Conv2d"),
    "k1": (lambda: nn.Conv2d(1, 1, 1), (1, 1, 12, 12), "DepthwiseConv2d"),
    "large_k": (lambda: nn.Conv2d(64, 8, 3), (1, 64, 5, 5), "Conv2d"),
}
TRANSPOSED = {
    "3x3": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (1, 4, 5, 5)),
    "output_padding": (lambda: nn.ConvTranspose2d(5, 3, 4, 2, 1, output_padding=1), (2, 5, 4, 4)),
    "1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (1, 4, 9)),
}
GROUPED_TRANSPOSED = {"groups2": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 5, 5))}
LINEARS = {
    "2d": (lambda: nn.Linear(19, 11), (4, 19)),
    "4d": (lambda: nn.Linear(8, 5), (2, 3, 4, 8)),
    "k1": (lambda: nn.Linear(1, 3), (5, 1)),
    "wide": (lambda: nn.Linear(512, 10, bias=False), (3, 512)),
}
PADS = {
    "even": (lambda: nn.Conv2d(3, 8, 3), (1, 3, 6, 6), (1, 1, 1, 1), "Conv2d"),
    "uneven": (lambda: nn.Conv2d(4, 4, 3, stride=2, groups=4), (1, 4, 9, 9), (0, 1, 0, 1), "DepthwiseConv2d"),
    "1d": (lambda: nn.Conv1d(4, 6, 3), (1, 4, 9), (1, 2), "Conv2d"),
}
UNARY_SHAPES = {"4d": (2, 3, 5, 7), "1d": (33,)}
MOVES = {
    "view": (lambda x: x.view(2, -1), (2, 3, 4), "StaticReshape"),
    "reshape": (lambda x: x.reshape(4, 6), (2, 3, 4), "StaticReshape"),
    "flatten": (lambda x: x.flatten(1), (2, 3, 2, 2), "StaticReshape"),
    "unflatten": (lambda x: x.unflatten(1, (2, 3)), (2, 6), "StaticReshape"),
    "squeeze": (lambda x: x.squeeze(1), (2, 1, 4), "StaticReshape"),
    "unsqueeze": (lambda x: x.unsqueeze(1), (2, 3), "StaticReshape"),
    "permute": (lambda x: x.permute(0, 2, 3, 1), (1, 3, 4, 5), "StaticTranspose"),
    "transpose": (lambda x: x.transpose(1, 2), (2, 3, 4), "StaticTranspose"),
}


def _gemms(suffix, after):
    for name, (make, shape, kernel) in CONVS.items():
        if suffix and name not in {"3x3", "depthwise", "1d", "large_k"}:
            continue
        for per_channel in (True, False):
            id_ = name if per_channel else f"{name}-per_tensor"
            yield Case(f"conv{suffix}", id_, layer(make, *after), (shape,), kernel, per_channel=per_channel)
    for name, (make, shape) in TRANSPOSED.items():
        yield Case(f"conv_transpose{suffix}", name, layer(make, *after), (shape,), "ConvTranspose2d")
    for name, (make, shape) in GROUPED_TRANSPOSED.items():
        yield Case(f"conv_transpose_grouped{suffix}", name, layer(make, *after), (shape,), "ConvTranspose2d")
    for name, (make, shape) in LINEARS.items():
        yield Case(f"linear{suffix}", name, layer(make, *after), (shape,), "FullyConnected")
    make, shape = LINEARS["2d"]
    yield Case(f"linear{suffix}", "per_tensor", layer(make, *after), (shape,), "FullyConnected", per_channel=False)
    for name, (make, shape, pad, kernel) in PADS.items():
        yield Case(f"pad_conv{suffix}", name, padded_layer(make, pad, *after), (shape,), kernel)


def _binaries():
    for name, shapes in {
        "same": ((2, 3, 4, 4),) * 2,
        "broadcast": ((2, 3, 4, 4), (1, 3, 1, 1)),
        "1d": ((40,),) * 2,
        "one_element": ((5, 7), (1,)),
    }.items():
        yield Case("add", name, function(lambda a, b: a + b), shapes, "Add")
        yield Case("add_relu", name, function(lambda a, b: F.relu(a + b)), shapes, "Add")
        yield Case("sub", name, function(lambda a, b: a - b), shapes, "Subtract")
        if name != "one_element":  # whose one code may be that of 0.0, and the product a constant
            yield Case("mul", name, function(lambda a, b: a * b), shapes, "Multiply")
    shape = ((2, 3, 4, 4),)
    yield Case("add", "parameter", with_parameter(lambda a, b: a + b, 3, 1, 1), shape, "Add")
    yield Case("sub", "parameter", with_parameter(lambda a, b: b - a, 3, 1, 1), shape, "Subtract")
    yield Case("mul", "parameter", with_parameter(lambda a, b: a * b, 3, 1, 1), shape, "Multiply")
    yield Case("mul", "self", function(lambda a: a * a), ((3, 9),), "Multiply")
    yield Case("add", "self", function(lambda a: a + a), ((3, 9),), "Add")


def _unaries():
    for name, shape in {"7x7": (2, 5, 7, 7), "4x4": (1, 8, 4, 4), "1x1": (1, 3, 1, 1)}.items():
        yield Case("mean", name, function(lambda x: x.mean((2, 3), keepdim=True)), (shape,), "GlobalAvgPooling2d")
        dropped = function(lambda x: x.mean((-1, -2)))
        yield Case("mean", f"dropped-{name}", dropped, (shape,), "GlobalAvgPooling2d", chained=True)
        yield Case("global_avg_pool", name, layer(lambda: nn.AdaptiveAvgPool2d(1)), (shape,), "GlobalAvgPooling2d")
    for name, shape in UNARY_SHAPES.items():
        yield Case("relu", name, function(F.relu), (shape,), "Clamp")
        yield Case("relu6", name, function(relu6), (shape,), "Clamp")
        yield Case("relu6", f"functional-{name}", function(F.relu6), (shape,), "Clamp")
        yield Case("clamp", name, function(lambda x: x.clamp(-1.0, 1.5)), (shape,), "Clamp")


def _movers():
    for name, arguments in {"2x2": (2, 2, 0), "3x3s2": (3, 2, 1)}.items():
        yield Case("max_pool", name, max_pool(*arguments), ((1, 3, 9, 9),), "MaxPooling2d", exact=True)
    yield Case("cat", "two", cat(1), ((1, 3, 4, 4), (1, 5, 4, 4)), "Concatenate2", exact=True)
    yield Case("cat", "five", cat(0), ((2, 3),) * 5, "Concatenate5", exact=True)
    for name, run in {"front": lambda x: x[:, :2], "back": lambda x: x[:, :, 1:-1]}.items():
        yield Case("slice", name, after_relu(run), ((2, 5, 6),), "StaticSlice", exact=True)
    for name, (run, shape, kernel) in MOVES.items():
        yield Case("move", name, after_relu(run), (shape,), kernel, exact=True)


def _chain(x, after):
    for run in after:
        x = run(x)
    return x


CASES = (
    *(case for suffix, after in ACTIVATIONS.items() for case in _gemms(suffix, after)),
    Case("addmm", "2d", layer(lambda: AddMM(9, 7)), ((4, 9),), "FullyConnected"),
    *_binaries(),
    *_unaries(),
    *_movers(),
)
