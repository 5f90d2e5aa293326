"""Every translation on float models: ONNX Runtime gives what PyTorch gives."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from quantizer_sdk import LoweringError
from quantizer_sdk.backends.onnxruntime import lower
from quantizer_sdk.backends.onnxruntime.translate import translate
from quantizer_sdk.backends.onnxruntime.translations import TRANSLATIONS

IMAGE, ROWS = (2, 4, 7, 6), (3, 8)


class Apply(nn.Module):
    def __init__(self, run, layer=None):
        super().__init__()
        self.run, self.layer = run, layer

    def forward(self, *inputs):
        return self.run(*inputs) if self.layer is None else self.layer(*inputs)


def randomized(norm):
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2.0)
    return norm


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), [(2, 4, 9)]),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), [IMAGE]),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), [(1, 2, 4, 4, 4)]),
    "conv_same": (lambda: nn.Conv2d(4, 6, (3, 4), padding="same", dilation=(2, 1)), [IMAGE]),
    "conv_valid": (lambda: nn.Conv1d(4, 6, 3, padding="valid"), [(2, 4, 9)]),
    "conv3d_same": (lambda: nn.Conv3d(2, 3, 2, padding="same"), [(1, 2, 4, 4, 4)]),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), [(2, 4, 9)]),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2), [IMAGE]),
    "linear": (lambda: nn.Linear(8, 5), [ROWS]),
    "linear4d": (lambda: nn.Linear(6, 5), [IMAGE]),
    "linear_plain": (lambda: nn.Linear(6, 5, bias=False), [IMAGE]),
    "batch_norm": (lambda: randomized(nn.BatchNorm2d(4)), [IMAGE]),
    "batch_norm_plain": (lambda: randomized(nn.BatchNorm1d(8, affine=False)), [ROWS]),
    "layer_norm": (lambda: randomized(nn.LayerNorm((7, 6))), [IMAGE]),
    "layer_norm_plain": (lambda: nn.LayerNorm(6, elementwise_affine=False), [IMAGE]),
    "max_pool1d": (lambda: nn.MaxPool1d(3, stride=2, padding=1, dilation=2), [(2, 4, 12)]),
    "max_pool2d": (lambda: nn.MaxPool2d((3, 2), padding=(1, 0)), [IMAGE]),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, padding=1), [(2, 4, 12)]),
    "avg_pool2d": (lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), [IMAGE]),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(1), [(2, 4, 9)]),
    "adaptive_avg_pool2d": (lambda: nn.AdaptiveAvgPool2d(1), [IMAGE]),
    "batch_norm_in_place": (lambda: nn.Sequential(randomized(nn.BatchNorm2d(4)), nn.ReLU(inplace=True)), [IMAGE]),
    "dropout": (lambda: nn.Sequential(nn.Dropout(), nn.ReLU()), [ROWS]),
}
FUNCTIONS = {
    "addmm": (lambda b, x, w: torch.addmm(b, x, w, alpha=0.5, beta=2), [(5,), (3, 8), (8, 5)]),
    "matmul": (torch.matmul, [(2, 3, 8), (8, 5)]),
    "mm": (torch.mm, [(3, 8), (8, 5)]),
    "bmm": (torch.bmm, [(2, 3, 8), (2, 8, 5)]),
    "add": (lambda a, b: torch.add(a, b, alpha=3) + 2, [ROWS, (8,)]),
    "sub": (lambda a, b: torch.sub(a, b, alpha=0.5) - 2, [ROWS, (8,)]),
    "mul": (lambda a, b: a * b * 2, [ROWS, (8,)]),
    "div": (lambda a, b: a / (b * b + 1), [ROWS, (8,)]),
    "relu": (F.relu, [ROWS]),
    "relu6": (F.relu6, [ROWS]),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 0.25), [ROWS]),
    "hardtanh_default": (F.hardtanh, [ROWS]),
    "clamp": (lambda x: x.clamp(-0.5, 0.25), [ROWS]),
    "clamp_high": (lambda x: x.clamp(max=0.25), [ROWS]),
    "clamp_min": (lambda x: torch.clamp_min(x, -0.1), [ROWS]),
    "clamp_max": (lambda x: torch.clamp_max(x, 0.1), [ROWS]),
    "sigmoid": (torch.sigmoid, [ROWS]),
    "tanh": (torch.tanh, [ROWS]),
    "erf": (torch.erf, [ROWS]),
    "exp": (torch.exp, [ROWS]),
    "sqrt": (lambda x: torch.sqrt(x.exp()), [ROWS]),
    "neg": (torch.neg, [ROWS]),
    "hardswish": (F.hardswish, [ROWS]),
    "hardsigmoid": (F.hardsigmoid, [ROWS]),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), [ROWS]),
    "gelu": (F.gelu, [ROWS]),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), [ROWS]),
    "elu": (lambda x: F.elu(x, 0.7), [ROWS]),
    "silu": (F.silu, [ROWS]),
    "softmax": (lambda x: x.softmax(1), [IMAGE]),
    "mean_image": (lambda x: x.mean((-1, -2), keepdim=True), [IMAGE]),
    "mean_axis": (lambda x: x.mean(1), [IMAGE]),
    "mean_all": (lambda x: x.mean((0, 1, 2, 3)), [IMAGE]),
    "cat": (lambda a, b: torch.cat([a, b], -1), [ROWS, (3, 2)]),
    "concat": (lambda a, b: torch.concat([a, b], 0), [ROWS, (1, 8)]),
    "concatenate": (lambda a, b: torch.concatenate([a, b], 0), [ROWS, (1, 8)]),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 3), value=0.5), [IMAGE]),
    "crop": (lambda x: F.pad(x, (-1, 0)), [IMAGE]),
    "constant_pad_nd": (lambda x: torch.constant_pad_nd(x, (1, 2)), [ROWS]),
    "view": (lambda x: x.view(2, -1), [IMAGE]),
    "reshape": (lambda x: x.reshape(3, 2, -1), [ROWS]),
    "unsafe_view": (lambda x: torch.ops.aten._unsafe_view(x, [4, 6]), [ROWS]),
    "flatten": (lambda x: x.flatten(1, 2), [IMAGE]),
    "unflatten": (lambda x: x.unflatten(1, (2, 4)), [ROWS]),
    "squeeze": (lambda x: x.squeeze(), [(1, 3, 1, 2)]),
    "squeeze_dim": (lambda x: x.squeeze(2), [(1, 3, 1, 2)]),
    "squeeze_dims": (lambda x: x.squeeze((0, 2)), [(1, 3, 1, 2)]),
    "unsqueeze": (lambda x: x.unsqueeze(-1), [ROWS]),
    "empty": (lambda x: x.reshape(0, 4, 2), [(2, 0, 4)]),
    "permute": (lambda x: x.permute(0, -1, 1, 2), [IMAGE]),
    "transpose": (lambda x: x.transpose(-1, 1), [IMAGE]),
    "t": (lambda x: x.t(), [ROWS]),
    "t_vector": (lambda x: x.t() * 2, [(5,)]),
    "slice": (lambda x: x[:, 1:-1:2], [ROWS]),
    "select": (lambda x: x[:, 2], [IMAGE]),
    "clone": (lambda x: x.clone() * 2, [ROWS]),
    "contiguous": (lambda x: x.transpose(0, 1).contiguous(), [ROWS]),
    "detach": (lambda x: x.detach() * 2, [ROWS]),
    "in_place_detached": (lambda x: (x * 2).detach().add_(1), [ROWS]),
    "in_place": (lambda x: (x * 2).add_(1).relu_().mul_(3), [ROWS]),
}
CASES = {
    **{name: (lambda make=make: Apply(None, make()), shapes) for name, (make, shapes) in LAYERS.items()},
    **{name: (lambda run=run: Apply(run), shapes) for name, (run, shapes) in FUNCTIONS.items()},
}


@pytest.mark.parametrize(("make", "shapes"), CASES.values(), ids=CASES)
def test_float_ops_agree_with_pytorch(make, shapes, export):
    module = make()
    inputs = [torch.randn(shape) for shape in shapes]
    model = export(module, *inputs)
    program = lower(model, inputs)
    (actual,) = program.run(*inputs)
    with torch.no_grad():
        torch.testing.assert_close(actual, module.eval()(*inputs), rtol=1e-5, atol=1e-5)
    assert not any(kernel.integer and "float" in kernel.inputs for kernel in program.kernels())


def test_every_translation_has_a_case(export, monkeypatch):
    used = set()
    translated = {op: _noting(used, op, translate) for op, translate in TRANSLATIONS.items()}
    monkeypatch.setattr("quantizer_sdk.backends.onnxruntime.translate.TRANSLATIONS", translated)
    for make, shapes in CASES.values():
        inputs = [torch.randn(shape) for shape in shapes]
        translate(export(make(), *inputs), inputs)
    quantized = {op for op in TRANSLATIONS if "quantized_decomposed" in str(op)}
    assert set(TRANSLATIONS) - quantized - used == set()


def _noting(used, op, translate):
    def note(call):
        used.add(op)
        return translate(call)

    return note


class PerChannel(nn.Module):
    """Quantizes images per channel, by scales that it is given or computes from the image."""

    def __init__(self, scale=None):
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.tensor([3, 0, 200, 7]))

    def forward(self, x):
        ops = torch.ops.quantized_decomposed
        scale = x.mean((0, 2, 3)) if self.scale is None else self.scale
        arguments = (scale, self.zero_point, 1, 0, 255, torch.uint8)
        return ops.dequantize_per_channel(ops.quantize_per_channel(x, *arguments), *arguments)


def test_per_channel_activations_are_quantized_along_their_axis(export):
    x, module = torch.randn(IMAGE), PerChannel(torch.tensor([0.1, 0.02, 0.03, 0.04]))
    (actual,) = lower(export(module, x), [x]).run(x)
    torch.testing.assert_close(actual, module(x))


def test_a_scale_computed_at_run_time_is_refused(export):
    x = torch.rand(IMAGE)
    with pytest.raises(LoweringError, match="scales is computed at run time; expected a constant"):
        lower(export(PerChannel(), x), [x])
