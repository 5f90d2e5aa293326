"""Every form of op that XNNPACK computes on int8 codes: whole on integer kernels, with the codes that are due.

The kernels' codes equal the profile's arithmetic bit for bit, lie within the derived band of the exact result, and are
at most one code from the q/dq graph's.
"""

import pytest
import torch
from on_codes import quantized
from torch import nn
from torch.nn import functional as F  # noqa: N812

from quantizer_sdk import explain
from quantizer_sdk.backend import strip_boundary
from quantizer_sdk.backends.xnnpack import BACKEND, XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.conformance import judge, run_oracle
from quantizer_sdk.conformance.emulator import emulate

pytest.importorskip("executorch")

IMAGE, SIGNAL, ROWS = (2, 6, 9, 8), (2, 6, 17), (5, 24)
LAYOUT = {"StaticTranspose", "StaticReshape"}


class Op(nn.Module):
    """A function of a layer, a parameter and the inputs."""

    def __init__(self, function, layer=None, shape=()):
        super().__init__()
        self.function, self.layer = function, layer
        self.p = nn.Parameter(torch.randn(shape))

    def forward(self, *inputs):
        return self.function(self, *inputs)


def layer(kind, *sizes, then=lambda x: x, before=lambda x: x, **options):
    """A case of one layer, with what its kernel computes too before and behind it."""
    return lambda: Op(lambda m, x: then(m.layer(before(x))), kind(*sizes, **options))


def call(function, shape=()):
    return lambda: Op(function, shape=shape)


def joined(axis):
    """A case of cat, of what integer kernels give: it computes nothing itself."""
    return call(lambda _, *xs: torch.cat([x.relu() for x in xs], axis))


def norm(channels):
    """A batch norm with statistics other than its first ones."""
    module = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for tensor in (module.weight, module.bias, module.running_mean):
            tensor.copy_(torch.randn(channels))
        module.running_var.uniform_(0.5, 2)
    return module


def normed(then=lambda x: x):
    return lambda: Op(lambda m, x: then(m.layer(x)), nn.Sequential(nn.Conv2d(6, 5, 3), norm(5)))


CONV, DEPTHWISE, TRANSPOSED, LINEAR = ["Conv2d"], ["DepthwiseConv2d"], ["ConvTranspose2d"], ["FullyConnected"]
GEMMS = {
    "conv1d": (layer(nn.Conv1d, 6, 5, 3), [SIGNAL], CONV),
    "conv1d_padded": (layer(nn.Conv1d, 6, 5, 3, padding=1), [SIGNAL], CONV),
    "conv1d_strided": (layer(nn.Conv1d, 6, 5, 3, stride=2), [SIGNAL], CONV),
    "conv1d_dilated": (layer(nn.Conv1d, 6, 5, 3, dilation=2), [SIGNAL], CONV),
    "conv1d_grouped": (layer(nn.Conv1d, 6, 9, 3, groups=3), [SIGNAL], CONV),
    "conv1d_depthwise": (layer(nn.Conv1d, 6, 6, 3, groups=6), [SIGNAL], DEPTHWISE),
    "conv1d_relu": (layer(nn.Conv1d, 6, 5, 3, then=F.relu), [SIGNAL], CONV),
    "conv1d_without_bias": (layer(nn.Conv1d, 6, 5, 3, bias=False), [SIGNAL], CONV),
    "conv2d": (layer(nn.Conv2d, 6, 5, 3), [IMAGE], CONV),
    "conv2d_without_bias": (layer(nn.Conv2d, 6, 5, 3, bias=False), [IMAGE], CONV),
    "conv2d_pointwise": (layer(nn.Conv2d, 6, 5, 1), [IMAGE], CONV),
    "conv2d_padded": (layer(nn.Conv2d, 6, 5, 3, padding=(1, 2)), [IMAGE], CONV),
    "conv2d_same": (layer(nn.Conv2d, 6, 5, 3, padding="same"), [IMAGE], CONV),
    "conv2d_strided": (layer(nn.Conv2d, 6, 5, 3, stride=(2, 1)), [IMAGE], CONV),
    "conv2d_dilated": (layer(nn.Conv2d, 6, 5, 3, dilation=2), [IMAGE], CONV),
    "conv2d_oblong": (layer(nn.Conv2d, 6, 5, (1, 5)), [IMAGE], CONV),
    "conv2d_grouped": (layer(nn.Conv2d, 6, 4, 3, groups=2), [IMAGE], CONV),
    "conv2d_depthwise": (layer(nn.Conv2d, 6, 6, 3, groups=6), [IMAGE], DEPTHWISE),
    "conv2d_depthwise_5x5": (layer(nn.Conv2d, 6, 6, 5, groups=6), [IMAGE], DEPTHWISE),
    "conv2d_depthwise_twice": (layer(nn.Conv2d, 6, 12, 3, groups=6), [IMAGE], DEPTHWISE),
    "conv2d_relu": (layer(nn.Conv2d, 6, 5, 3, then=F.relu), [IMAGE], CONV),
    "conv2d_relu6": (layer(nn.Conv2d, 6, 5, 3, then=F.relu6), [IMAGE], CONV),
    "conv2d_hardtanh": (layer(nn.Conv2d, 6, 5, 3, then=F.hardtanh), [IMAGE], CONV),
    "conv2d_clamp": (layer(nn.Conv2d, 6, 5, 3, then=lambda x: x.clamp(-0.2, 0.5)), [IMAGE], CONV),
    "conv2d_clamp_from_0": (layer(nn.Conv2d, 6, 5, 3, then=lambda x: x.clamp(min=0)), [IMAGE], CONV),
    "conv2d_norm": (normed(), [IMAGE], CONV),
    "conv2d_norm_relu": (normed(F.relu), [IMAGE], CONV),
    "pad_conv2d": (
        layer(nn.Conv2d, 6, 5, 3, before=lambda x: F.pad(x, (0, 1, 2, 0))),
        [IMAGE],
        ["StaticConstantPad", "Conv2d"],
    ),
    "conv_transpose1d": (layer(nn.ConvTranspose1d, 6, 5, 3), [SIGNAL], TRANSPOSED),
    "conv_transpose2d": (layer(nn.ConvTranspose2d, 6, 5, 3), [IMAGE], TRANSPOSED),
    "conv_transpose2d_strided": (
        layer(nn.ConvTranspose2d, 6, 5, 3, stride=2, padding=1, output_padding=1),
        [IMAGE],
        TRANSPOSED,
    ),
    "conv_transpose2d_relu": (layer(nn.ConvTranspose2d, 6, 5, 2, stride=2, then=F.relu), [IMAGE], TRANSPOSED),
    "conv_transpose2d_without_bias": (layer(nn.ConvTranspose2d, 6, 5, 3, bias=False), [IMAGE], TRANSPOSED),
    "conv_transpose2d_grouped": (layer(nn.ConvTranspose2d, 6, 4, 3, groups=2), [IMAGE], TRANSPOSED),
    "linear": (layer(nn.Linear, 24, 7), [ROWS], LINEAR),
    "linear_without_bias": (layer(nn.Linear, 24, 7, bias=False), [ROWS], LINEAR),
    "linear_3d": (layer(nn.Linear, 24, 7), [(2, 5, 24)], LINEAR),
    "linear_4d": (layer(nn.Linear, 24, 7), [(2, 3, 5, 24)], LINEAR),
    "linear_relu": (layer(nn.Linear, 24, 7, then=F.relu), [ROWS], LINEAR),
    "linear_relu6": (layer(nn.Linear, 24, 7, then=F.relu6), [ROWS], LINEAR),
    "mm": (call(lambda m, x: torch.mm(x, m.p), (24, 7)), [ROWS], LINEAR),
    "matmul_3d": (call(lambda m, x: x @ m.p, (24, 7)), [(2, 5, 24)], LINEAR),
    "addmm": (lambda: Op(lambda m, x: torch.addmm(m.layer.bias, x, m.p), nn.Linear(1, 7), (24, 7)), [ROWS], LINEAR),
    "batch_norm": (lambda: Op(lambda m, x: m.layer(x), norm(6)), [IMAGE], DEPTHWISE),
    "avg_pool2d": (call(lambda _, x: F.avg_pool2d(x, 2)), [IMAGE], DEPTHWISE),
    "avg_pool2d_padded": (call(lambda _, x: F.avg_pool2d(x, 3, 2, 1)), [IMAGE], DEPTHWISE),
}
OTHERS = {
    "add": (call(lambda _, a, b: a + b), [IMAGE, IMAGE], ["Add"]),
    "add_broadcast": (call(lambda _, a, b: a + b), [IMAGE, (1, 6, 1, 8)], ["Add"]),
    "add_parameter": (call(lambda m, x: x + m.p, (6, 1, 1)), [IMAGE], ["Add"]),
    "add_itself": (call(lambda _, x: x + x), [IMAGE], ["Add"]),
    "add_number": (call(lambda _, x: x + 0.75), [IMAGE], ["Add"]),
    "add_relu": (call(lambda _, a, b: F.relu(a + b)), [IMAGE, IMAGE], ["Add"]),
    "sub": (call(lambda _, a, b: a - b), [IMAGE, IMAGE], ["Subtract"]),
    "sub_broadcast": (call(lambda _, a, b: a - b), [(1, 6, 1, 8), IMAGE], ["Subtract"]),
    "sub_parameter": (call(lambda m, x: m.p - x, (6, 1, 1)), [IMAGE], ["Subtract"]),
    "number_minus": (call(lambda _, x: 1 - x), [IMAGE], ["Subtract"]),
    "mul": (call(lambda _, a, b: a * b), [IMAGE, IMAGE], ["Multiply"]),
    "mul_broadcast": (call(lambda _, a, b: a * b), [IMAGE, (2, 6, 1, 1)], ["Multiply"]),
    "mul_parameter": (call(lambda m, x: x * m.p, (6, 1, 1)), [IMAGE], ["Multiply"]),
    "mul_itself": (call(lambda _, x: x * x), [IMAGE], ["Multiply"]),
    "mul_number": (call(lambda _, x: x * -0.3), [IMAGE], ["Multiply"]),
    "mul_relu": (call(lambda _, a, b: F.relu(a * b)), [IMAGE, IMAGE], ["Multiply", "Clamp"]),
    "div_number": (call(lambda _, x: x / 3), [IMAGE], ["Multiply"]),
    "silu": (call(lambda _, x: F.silu(x)), [IMAGE], ["Table(Sigmoid)", "Multiply"]),
    "hardsigmoid": (call(lambda _, x: F.hardsigmoid(x)), [IMAGE], ["Add", "Clamp", "Multiply"]),
    **{f"cat_{n}": (joined(1), [IMAGE] * n, ["Clamp"] * n + [f"Concatenate{n}"]) for n in (2, 3, 4, 5)},
    "cat_6": (joined(1), [IMAGE] * 6, ["Clamp"] * 6 + ["Concatenate5", "Concatenate2"]),
    "cat_rows": (joined(0), [(3, 24), (2, 24)], ["Clamp", "Clamp", "Concatenate2"]),
    "slice": (call(lambda _, x: x.relu()[:, 1:4]), [IMAGE], ["Clamp", "StaticSlice"]),
    "slice_from_the_end": (call(lambda _, x: x.relu()[..., -3:]), [IMAGE], ["Clamp", "StaticSlice"]),
    "select": (call(lambda _, x: x.relu()[:, 2]), [IMAGE], ["Clamp", "StaticSlice"]),
    "chunk": (call(lambda _, x: x.relu().chunk(2, 1)), [IMAGE], ["Clamp", "StaticSlice", "StaticSlice"]),
    "split": (call(lambda _, x: x.relu().split([2, 4], 1)), [IMAGE], ["Clamp", "StaticSlice", "StaticSlice"]),
    "relu": (call(lambda _, x: F.relu(x)), [IMAGE], ["Clamp"]),
    "relu6": (call(lambda _, x: F.relu6(3 * x)), [IMAGE], ["Multiply", "Clamp"]),
    "hardtanh": (call(lambda _, x: F.hardtanh(x, -0.5, 1)), [IMAGE], ["Clamp"]),
    "clamp": (call(lambda _, x: x.clamp(-0.5, 1)), [IMAGE], ["Clamp"]),
    "clamp_min": (call(lambda _, x: x.clamp(min=-0.5)), [IMAGE], ["Clamp"]),
    "clamp_max": (call(lambda _, x: x.clamp(max=0.5)), [IMAGE], ["Clamp"]),
    "sigmoid": (call(lambda _, x: x.sigmoid()), [IMAGE], ["Table(Sigmoid)"]),
    "tanh": (call(lambda _, x: x.tanh()), [IMAGE], ["Table(Tanh)"]),
    "gelu": (call(lambda _, x: F.gelu(x)), [IMAGE], ["Table(Gelu)"]),
    "hardswish": (call(lambda _, x: F.hardswish(x)), [IMAGE], ["Table(Hardswish)"]),
    "leaky_relu": (call(lambda _, x: F.leaky_relu(x, 0.2)), [IMAGE], ["Table(LeakyReLU)"]),
    "elu": (call(lambda _, x: F.elu(x)), [IMAGE], ["ELU"]),
    "neg": (call(lambda _, x: -x), [IMAGE], ["Table(Negate)"]),
    "abs": (call(lambda _, x: x.abs()), [IMAGE], ["Table(Abs)"]),
    "square": (call(lambda _, x: x.square()), [IMAGE], ["Table(Square)"]),
    "pow_2": (call(lambda _, x: x**2), [IMAGE], ["Table(Square)"]),
    "sqrt": (call(lambda _, x: x.square().sqrt()), [IMAGE], ["Table(Square)", "Table(SquareRoot)"]),
    "rsqrt": (call(lambda _, x: (x.abs() + 1).rsqrt()), [IMAGE], ["Table(Abs)", "Add", "Table(ReciprocalSquareRoot)"]),
    "exp": (call(lambda _, x: x.exp()), [IMAGE], ["Table(Exp)"]),
    "log": (call(lambda _, x: (x.abs() + 1).log()), [IMAGE], ["Table(Abs)", "Add", "Table(Log)"]),
    "sin": (call(lambda _, x: x.sin()), [IMAGE], ["Table(Sin)"]),
    "cos": (call(lambda _, x: x.cos()), [IMAGE], ["Table(Cos)"]),
    "ceil": (call(lambda _, x: (2 * x).ceil()), [IMAGE], ["Multiply", "Table(Ceiling)"]),
    "floor": (call(lambda _, x: (2 * x).floor()), [IMAGE], ["Multiply", "Table(Floor)"]),
    "max_pool2d": (call(lambda _, x: F.max_pool2d(x.relu(), 2)), [IMAGE], ["Clamp", "MaxPooling2d"]),
    "max_pool2d_padded": (call(lambda _, x: F.max_pool2d(x.relu(), 3, 2, 1)), [IMAGE], ["Clamp", "MaxPooling2d"]),
    "max_pool2d_dilated": (
        call(lambda _, x: F.max_pool2d(x.relu(), 2, 1, 0, 2)),
        [IMAGE],
        ["Clamp", "MaxPooling2d"],
    ),
    "adaptive_avg_pool2d": (call(lambda _, x: F.adaptive_avg_pool2d(x, 1)), [IMAGE], ["GlobalAvgPooling2d"]),
    "mean": (call(lambda _, x: x.mean((2, 3), keepdim=True)), [IMAGE], ["GlobalAvgPooling2d"]),
    "mean_without_keepdim": (call(lambda _, x: x.mean((2, 3))), [IMAGE], ["GlobalAvgPooling2d"]),
    "mean_of_a_signal": (call(lambda _, x: x.mean(-1)), [SIGNAL], ["GlobalAvgPooling2d"]),
    "adaptive_avg_pool1d": (call(lambda _, x: F.adaptive_avg_pool1d(x, 1)), [SIGNAL], ["GlobalAvgPooling2d"]),
    "view": (call(lambda _, x: x.relu().view(2, -1)), [IMAGE], ["Clamp"]),
    "reshape": (call(lambda _, x: x.relu().reshape(2, 2, 3, 72)), [IMAGE], ["Clamp"]),
    "flatten": (call(lambda _, x: x.relu().flatten(1)), [IMAGE], ["Clamp"]),
    "permute": (call(lambda _, x: x.relu().permute(0, 2, 3, 1)), [IMAGE], ["Clamp"]),
    "transpose": (call(lambda _, x: x.relu().transpose(1, 3)), [IMAGE], ["Clamp"]),
    "t": (call(lambda _, x: x.relu().t()), [ROWS], ["Clamp"]),
    "unsqueeze": (call(lambda _, x: x.relu().unsqueeze(-1)), [IMAGE], ["Clamp"]),
    "squeeze": (call(lambda _, x: x.relu().squeeze(1)), [(2, 1, 9, 8)], ["Clamp"]),
    "unflatten": (call(lambda _, x: x.relu().unflatten(1, (2, 3))), [IMAGE], ["Clamp"]),
}


def holds(case, export, *, is_per_channel):
    """Quantize, lower, and run an op on all kinds of codes."""
    torch.manual_seed(0)
    make, shapes, kernels = case
    inputs = [1.5 * torch.randn(shape) for shape in shapes]
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=is_per_channel))
    model = quantized(export, make(), *inputs, quantizer=quantizer)
    assert not [op for op in explain(model).float_ops() if "moves a constant" not in op.reason]
    program = BACKEND.lower(model, inputs, integer_io=True)
    codes = [torch.randint(-128, 128, shape, dtype=torch.int8) for shape in shapes]
    found = program.run(*codes)
    computing = [kernel for kernel in program.kernels() if kernel.name not in LAYOUT]
    assert all(kernel.integer for kernel in computing)
    assert [kernel.name for kernel in computing] == kernels
    assert program.delegation().non_delegated == ()
    stripped, _ = strip_boundary(model, inputs)
    graph = stripped(*codes)
    graph = [graph] if isinstance(graph, torch.Tensor) else list(graph)
    sites = run_oracle(model, codes, BACKEND.profile).outputs
    assert len(sites) == len(found) == len(graph)
    for site, kernel, eager in zip(sites, found, graph, strict=True):
        assert len(kernel.unique()) > 2
        assert (kernel.int() - eager.int()).abs().max() <= 1
        if len([name for name in kernels if name not in {"StaticSlice", "StaticConstantPad"}]) == 1:
            # Of several ops the first decides ties for itself: see the suite, which judges each on its own operands.
            verdict = judge(kernel, site.requantized, site.kernel_delta)
            assert verdict.conforms, str(verdict)
            predicted = emulate(site, BACKEND.profile, kernel)
            assert torch.equal(kernel.to(torch.int64), predicted)


@pytest.mark.parametrize("name", GEMMS)
@pytest.mark.parametrize("is_per_channel", [True, False], ids=["per_channel", "per_tensor"])
def test_gemms(name, is_per_channel, export):
    holds(GEMMS[name], export, is_per_channel=is_per_channel)


@pytest.mark.parametrize("name", OTHERS)
def test_other_ops(name, export):
    holds(OTHERS[name], export, is_per_channel=True)
