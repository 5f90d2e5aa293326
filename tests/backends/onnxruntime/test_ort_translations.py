"""Every translation on float models: ONNX Runtime gives what PyTorch gives."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.utils._pytree import tree_leaves

from quantizer_sdk.backends.onnxruntime import lower
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
MORE_LAYERS = {
    "conv2d_unbatched": (lambda: nn.Conv2d(4, 6, 3), [(4, 7, 6)]),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), [(1, 2, 3, 3, 3)]),
    "conv_transpose1d_unbatched": (lambda: nn.ConvTranspose1d(4, 6, 3), [(4, 9)]),
    "group_norm": (lambda: randomized(nn.GroupNorm(2, 4)), [IMAGE]),
    "group_norm_plain": (lambda: nn.GroupNorm(2, 4, affine=False), [IMAGE]),
    "instance_norm": (lambda: randomized(nn.InstanceNorm2d(4, affine=True)), [IMAGE]),
    "instance_norm_plain": (lambda: nn.InstanceNorm2d(4), [IMAGE]),
    "instance_norm_stored": (lambda: randomized(nn.InstanceNorm2d(4, track_running_stats=True)), [IMAGE]),
    "lstm": (lambda: nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True), [(2, 5, 8)]),
    "gru": (lambda: nn.GRU(8, 4, batch_first=True), [(2, 5, 8)]),
    "rms_norm": (lambda: randomized(nn.RMSNorm(6)), [IMAGE]),
    "rms_norm_plain": (lambda: nn.RMSNorm(6, eps=1e-3, elementwise_affine=False), [IMAGE]),
    "max_pool2d_ceil": (lambda: nn.MaxPool2d(3, stride=2, ceil_mode=True), [(1, 2, 8, 10)]),
    "max_pool2d_unbatched": (lambda: nn.MaxPool2d(2), [(4, 8, 6)]),
    "max_pool3d": (lambda: nn.MaxPool3d(2), [(1, 2, 4, 4, 4)]),
    "avg_pool2d_ceil": (lambda: nn.AvgPool2d(3, stride=2, ceil_mode=True), [(1, 2, 8, 10)]),
    "avg_pool2d_ceil_padded": (
        lambda: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        [(1, 2, 8, 10)],
    ),
    "avg_pool2d_divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), [IMAGE]),
    "avg_pool3d": (lambda: nn.AvgPool3d(2), [(1, 2, 4, 4, 4)]),
    "adaptive_avg_pool2d_divides": (lambda: nn.AdaptiveAvgPool2d((2, 3)), [(2, 4, 8, 6)]),
    "adaptive_avg_pool2d_overlaps": (lambda: nn.AdaptiveAvgPool2d((3, 4)), [(2, 4, 7, 6)]),
    "adaptive_avg_pool3d": (lambda: nn.AdaptiveAvgPool3d(1), [(1, 2, 4, 4, 4)]),
    "adaptive_max_pool1d": (lambda: nn.AdaptiveMaxPool1d(3), [(2, 4, 9)]),
    "adaptive_max_pool2d": (lambda: nn.AdaptiveMaxPool2d(2), [(2, 4, 8, 6)]),
    "adaptive_max_pool3d": (lambda: nn.AdaptiveMaxPool3d(2), [(1, 2, 4, 4, 4)]),
    "shrinking": (
        lambda: nn.Sequential(
            nn.Hardshrink(), nn.Softshrink(), nn.Tanhshrink(), nn.LogSigmoid(), nn.SELU(), nn.CELU(0.7)
        ),
        [ROWS],
    ),
    "thresholds": (lambda: nn.Sequential(nn.Threshold(0.1, 0.2), nn.Softmin(1), nn.LogSoftmax(1)), [ROWS]),
    "channel_shuffle": (lambda: nn.ChannelShuffle(2), [IMAGE]),
    "prelu": (lambda: nn.PReLU(4), [IMAGE]),
    "mish": (nn.Mish, [ROWS]),
    "softplus": (lambda: nn.Softplus(beta=2.0), [ROWS]),
    "softplus_plain": (nn.Softplus, [ROWS]),
    "glu": (lambda: nn.GLU(1), [ROWS]),
    "lstm_cell": (lambda: nn.LSTMCell(8, 4), [ROWS]),
    "attention_layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), [(2, 5, 8)]),
    "pixel_shuffle": (lambda: nn.PixelShuffle(2), [IMAGE]),
    "upsample_nearest": (lambda: nn.Upsample(scale_factor=2), [IMAGE]),
    "upsample_nearest1d": (lambda: nn.Upsample(size=12), [(2, 4, 9)]),
    "upsample_bilinear": (lambda: nn.Upsample(size=(9, 11), mode="bilinear"), [IMAGE]),
    "upsample_corners": (lambda: nn.Upsample(size=(9, 11), mode="bilinear", align_corners=True), [IMAGE]),
    "upsample_linear": (lambda: nn.Upsample(size=12, mode="linear"), [(2, 4, 9)]),
    "upsample_bicubic": (lambda: nn.Upsample(size=(9, 11), mode="bicubic"), [IMAGE]),
    "feature_dropout": (lambda: nn.Sequential(nn.Dropout2d(), nn.ReLU()), [IMAGE]),
}
QKV = [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4)]
MORE_FUNCTIONS = {
    "attention": (F.scaled_dot_product_attention, QKV),
    "attention_scaled": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3), QKV),
    "attention_causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), QKV),
    "attention_masked": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, (q @ k.mT) > 0), QKV),
    "attention_biased": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, q @ k.mT), QKV),
    "attention_all_masked": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.arange(5)[:, None] > torch.arange(7)),
        QKV,
    ),
    "attention_all_infinite": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.zeros(5, 7).fill_(-torch.inf).triu(1)),
        QKV,
    ),
    "attention_shared_heads": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        [(2, 4, 5, 4), (2, 2, 7, 4), (2, 2, 7, 4)],
    ),
    "add_promotes": (lambda x: torch.arange(8) + x, [ROWS]),
    "rsub": (lambda x: 2 - x, [ROWS]),
    "div_floor": (lambda a, b: torch.div(a, b.abs() + 1, rounding_mode="floor"), [ROWS, (8,)]),
    "div_trunc": (lambda a, b: torch.div(a, b.abs() + 1, rounding_mode="trunc") + torch.div(a, 0.3), [ROWS, (8,)]),
    "floor_divide": (lambda x: (x * 10).long() // 3 + x // 0.3, [ROWS]),
    "remainder": (lambda x: torch.remainder(x, 0.3) + torch.remainder((x * 10).long(), 3), [ROWS]),
    "fmod": (lambda a, b: torch.fmod(a, b.abs() + 0.5) + torch.fmod(a, 0.3), [ROWS, (8,)]),
    "remainder_tensor": (lambda a, b: torch.remainder(a, b.abs() + 0.5), [ROWS, (8,)]),
    "pow": (lambda a, b: a**2 + a.abs() ** 1.5 + a.abs() ** b + 2.0**a + a.abs() ** 0.5, [ROWS, (8,)]),
    "maximum": (
        lambda a, b: torch.maximum(a, b) - torch.minimum(a, b) + torch.max(a, b) + torch.min(a, b),
        [ROWS, (8,)],
    ),
    "compare": (
        lambda a, b: (a > b).float() + (a >= 0.5) * 2 + (a < b) * 4 + (a <= 0.1) * 8 + (a == b) * 16 + (a != 0) * 32,
        [ROWS, (8,)],
    ),
    "compare_tensors": (
        lambda a, b: (a >= b).float() + (a <= b) * 2 + (a != b) * 4 + (a.sign() == 1) * 8,
        [ROWS, (8,)],
    ),
    "compare_scalars": (lambda a: (a > 0).float() + (a < 0.5) * 2 + (a.round() == 0) * 4 + (a != 0.25) * 8, [ROWS]),
    "logic": (lambda a, b: torch.logical_and(a > 0, b > 0) | ~((a > 1) ^ (b > 1)) & (a > -1), [ROWS, (8,)]),
    "logic_more": (
        lambda a, b: torch.logical_or(a > 0, b > 0).logical_xor(a > 1).logical_not().float() + ((a * 4).int() & 3),
        [ROWS, (8,)],
    ),
    "where": (lambda a, b: torch.where(a > 0, a, b) + torch.where(a > b, a, 0.5), [ROWS, (8,)]),
    "masked_fill": (lambda a, b: a.masked_fill(b > 0, -1.5), [ROWS, ROWS]),
    "log": (lambda x: x.abs().log() + x.abs().log1p() + x.abs().log2() + x.abs().log10(), [ROWS]),
    "rounding": (lambda x: (x * 3).round() + x.floor() + x.ceil() + x.sign() + x.abs(), [ROWS]),
    "trigonometry": (
        lambda x: (
            x.sin()
            + x.cos()
            + x.atan()
            + x.sinh()
            + x.cosh()
            + x.asinh()
            + (x * 0.3).tan()
            + x.trunc()
            + (x / 9).asin()
            + (x / 9).acos()
            + (x / 9).atanh()
            + (x.abs() + 1).acosh()
            + x.expm1()
        ),
        [ROWS],
    ),
    "sort": (lambda x: x.sort(1)[0] + x.sort(1, descending=True)[1], [ROWS]),
    "scatter": (lambda a, b: a.scatter(1, torch.tensor([[3], [0], [7]]), b), [ROWS, (3, 1)]),
    "reciprocal": (lambda x: (x.abs() + 1).reciprocal() + (x.abs() + 1).rsqrt(), [ROWS]),
    "non_finite": (lambda x: (x / 0).isinf().float() + (x - x / 0 + x / 0).isnan().float(), [ROWS]),
    "clamp_tensor": (lambda a, b: torch.clamp(a, -b.abs(), b.abs()), [ROWS, (8,)]),
    "cast": (lambda x: (x * 10).to(torch.int32).float() + x.double().type_as(x) + x.to(torch.float64).to(x), [ROWS]),
    "sum": (lambda x: x.sum((1, -1), keepdim=True) + x.sum() + x.sum(2, keepdim=True).sum(1, keepdim=True), [IMAGE]),
    "mean_everything": (lambda x: x.mean(), [IMAGE]),
    "extremes": (lambda x: x.amax(1) + x.amin((1,)) + x.max() + x.min() + x.prod(1) + x[:, :2].prod(), [ROWS]),
    "logsumexp": (lambda x: x.logsumexp(1), [ROWS]),
    "max_dim": (lambda x: x.max(1)[0] + x.max(1)[1] + x.min(1, keepdim=True)[1][:, 0], [ROWS]),
    "argmax": (lambda x: x.argmax(1) + x.argmin(1, keepdim=True)[:, 0] + x.argmax(), [ROWS]),
    "any_all": (lambda x: ((x > 0).any() | (x > 0.1).all(1) | (x > 1).any(1) | (x > -9).all()).float(), [ROWS]),
    "var": (lambda x: x.var(1) + x.var((0, 1), correction=0) + x.std(1, keepdim=True)[:, 0] + x.var(), [ROWS]),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=1) + torch.linalg.vector_norm(x, 1, dim=1), [ROWS]),
    "normalize": (lambda x: F.normalize(x, dim=1), [ROWS]),
    "cumsum": (lambda x: x.cumsum(1), [ROWS]),
    "topk": (lambda x: x.topk(3)[0] + x.topk(3)[1], [ROWS]),
    "log_softmax": (lambda x: x.log_softmax(1), [ROWS]),
    "stack": (lambda a, b: torch.stack([a, b], 1), [ROWS, ROWS]),
    "pad_reflect": (lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), [IMAGE]),
    "pad_replicate": (lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"), [IMAGE]),
    "view_as": (lambda a, b: a.view_as(b) + a.reshape_as(b), [ROWS, (4, 6)]),
    "swapaxes": (lambda x: x.swapaxes(0, 1) + x.T, [ROWS]),
    "split": (lambda x: x.split(3, 1)[2] * x.split([2, 4, 2], 1)[0], [ROWS]),
    "chunk": (lambda x: x.chunk(3, 1)[0] + torch.tensor_split(x, 2, 1)[1][:, :3], [ROWS]),
    "unbind": (lambda x: x.unbind(1)[2] * x.unbind(0)[1][2], [ROWS]),
    "expand": (lambda a, b: a.expand(3, -1) + a.expand_as(b), [(1, 8), ROWS]),
    "repeat": (lambda x: x.repeat(2, 1, 3) + x.tile((2, 1, 3)), [ROWS]),
    "flip": (lambda x: x.flip(0, -1), [ROWS]),
    "index_select": (lambda x: x.index_select(1, torch.tensor([3, 0])), [ROWS]),
    "gather": (lambda x: x.gather(1, x[:, :3].abs().long()), [ROWS]),
    "index": (
        lambda x: x[:, torch.tensor([3, 0])] + x[torch.tensor([0, 1, 2]), torch.tensor([3, 0, 1])][:, None],
        [ROWS],
    ),
    "arange": (lambda x: x + torch.arange(8) + torch.arange(1.0, 9.0) + torch.arange(0, 16, 2), [ROWS]),
    "filled": (
        lambda x: (
            x.new_full((8,), 2.0)
            + torch.full((8,), 3.0)
            + torch.full_like(x, 4)
            + x.new_zeros(8)
            + x.new_ones(8)
            + torch.zeros(8)
            + torch.ones(8)
            + torch.zeros_like(x)
            + torch.ones_like(x)
        ),
        [ROWS],
    ),
    "triangles": (lambda x: x.tril(-1) * 2 + x.triu(1) + (x > 0).tril().float(), [ROWS]),
    "decomposed_softsign": (F.softsign, [ROWS]),
    "decomposed_roll": (lambda x: x.roll(2, 1), [ROWS]),
    "decomposed_addcmul": (lambda a, b: torch.addcmul(a, a, b, value=0.5), [ROWS, (8,)]),
    "decomposed_lerp": (lambda a, b: torch.lerp(a, b, 0.3), [ROWS, ROWS]),
    "decomposed_pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), [(2, 3, 6, 4)]),
    "decomposed_local_response_norm": (lambda x: F.local_response_norm(x, 3), [IMAGE]),
}
aten = torch.ops.aten
# Overloads that Python's functions do not call, but decomposed programs and other frontends do.
OVERLOADS = {
    "softmaxes": (lambda x: aten._softmax(x, 1, False) + aten._log_softmax(x, 1, False), [ROWS]),
    "scalars": (
        lambda x: aten.add.Scalar(x, 2, 3) + aten.sub.Scalar(x, 1) * aten.mul.Scalar(x, 3) + aten.div.Scalar(x, 3),
        [ROWS],
    ),
    "div_scalar_mode": (lambda x: aten.div.Scalar_mode(x, 0.3, rounding_mode="floor"), [ROWS]),
    "true_divide": (lambda a, b: aten.true_divide(a, b.abs() + 1) + aten.rsub.Tensor(a, b), [ROWS, (8,)]),
    "copies": (lambda x: aten.alias(x * 2) + aten.lift_fresh_copy(x), [ROWS]),
    "any_dims": (lambda x: (aten.any.dims(x > 1, [0, 1]) | aten.all.dims(x > -9, [0, 1])).float(), [ROWS]),
    "bitwise": (
        lambda x: (
            ((x * 9).int() & (x * 5).int())
            + aten.bitwise_or((x * 9).int(), (x * 5).int())
            + aten.bitwise_xor.Scalar((x * 9).int(), 3)
            + aten.bitwise_or.Scalar((x * 9).int(), 4)
        ),
        [ROWS],
    ),
    "bitwise_scalars": (
        lambda x: aten.bitwise_and.Scalar((x * 9).int(), 3) + aten.bitwise_xor.Tensor((x * 9).int(), (x * 5).int()),
        [ROWS],
    ),
    "functional": (
        lambda x, s: (
            aten._native_batch_norm_legit_no_training(x, None, None, s, s.abs() + 1, 0.1, 1e-5)[0]
            + aten._to_copy(x, dtype=torch.float64).float()
        ),
        [IMAGE, (4,)],
    ),
    "bitwise_and": (lambda x: aten.bitwise_and.Tensor((x * 9).int(), (x * 5).int()), [ROWS]),
    "clamp_tensors": (lambda a, b: aten.clamp_max.Tensor(a, b) + aten.clamp_min.Tensor(a, b), [ROWS, (8,)]),
    "convolution": (
        lambda x, w: (
            aten.convolution(x, w, None, [1], [1], [1], False, [0], 1)
            + aten.convolution(x, w, None, [1], [1], [1], True, [0], 1)
        ),
        [(2, 4, 9), (4, 4, 3)],
    ),
    "embedding": (lambda w, i: aten.embedding(w, i.abs().long()), [(9, 4), ROWS]),
    "masked_fill_tensor": (lambda a, b: aten.masked_fill.Tensor(a, b > 0, torch.tensor(0.5)), [ROWS, ROWS]),
    "scalar_tensor": (lambda x: x + aten.scalar_tensor(3.0), [ROWS]),
    "split_sizes": (lambda x: aten.split.sizes(x, [3, 5], 1)[1], [ROWS]),
    "statistics": (lambda x: aten.std.correction(x, [1]) + aten.std.default(x) + aten.var.default(x, False), [ROWS]),
    "to": (lambda x: aten.to.dtype_layout(x, dtype=torch.float64).float() + aten.to.other((x * 9).int(), x), [ROWS]),
    "upsample_image": (
        lambda x: aten.upsample_bilinear2d.default(x, [9, 11], False) + aten.upsample_nearest2d.default(x, [9, 11]),
        [IMAGE],
    ),
    "upsample_signal": (
        lambda x: aten.upsample_linear1d.default(x, [12], True) + aten.upsample_nearest1d.default(x, [12]),
        [(2, 4, 9)],
    ),
    "where_scalars": (
        lambda x: aten.where.ScalarSelf(x > 0, 1.5, x) + aten.where.Scalar(x > 0.5, 2.0, 3.0),
        [ROWS],
    ),
}
FUNCTIONS.update(OVERLOADS)
LAYERS.update(MORE_LAYERS)
FUNCTIONS.update(MORE_FUNCTIONS)
CASES = {
    **{name: (lambda make=make: Apply(None, make()), shapes) for name, (make, shapes) in LAYERS.items()},
    **{name: (lambda run=run: Apply(run), shapes) for name, (run, shapes) in FUNCTIONS.items()},
}


EXPORTED = {}


def exported_case(name, export):
    """Export a case once in each process."""
    if name not in EXPORTED:
        torch.manual_seed(0)
        make, shapes = CASES[name]
        module, inputs = make().eval(), tuple(torch.randn(shape) for shape in shapes)
        EXPORTED[name] = module, inputs, export(module, *inputs)
    return EXPORTED[name]


@pytest.mark.parametrize("name", CASES)
def test_float_ops_agree_with_pytorch(name, export):
    module, inputs, model = exported_case(name, export)
    program = lower(model, inputs)
    with torch.no_grad():
        expected = module(*inputs)
    for actual, wanted in zip(program.run(*inputs), tree_leaves(expected), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)
    assert not any(kernel.integer and "float" in kernel.inputs for kernel in program.kernels())


def test_every_translation_has_a_case(export):
    used = set()
    for name in CASES:
        _, _, model = exported_case(name, export)
        used |= {node.target for node in model.graph.nodes}
    ops = {op for op in TRANSLATIONS if str(op).startswith("aten")} - {aten.sym_size.int}
    assert sorted(str(op) for op in ops - used) == []


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


def test_a_scale_computed_at_run_time_is_one_of_the_graphs_values(export):
    x = torch.rand(IMAGE)
    torch.testing.assert_close(lower(export(PerChannel(), x), [x]).run(x)[0], PerChannel()(x))
