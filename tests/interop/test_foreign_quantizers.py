"""ExecuTorch's own XNNPACKQuantizer on torchao's engine and, unmodified, on ours: the same graph, the same bits.

Where the two differ, the test names the reason: what torchao's engine is known to do wrong, or what ours means to do.
"""

import copy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torchao.quantization.pt2e as torchao
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from quantizers import Apply
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its name everywhere
from torchao.quantization.pt2e import quantize_pt2e as their_engine

import quantizer_sdk as q
from quantizer_sdk.constants import dependencies_of
from quantizer_sdk.qdq import is_dequantize, is_quantize

BENCHMARKS = Path(q.__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the benchmarks are scripts and no package

from vendors.engines import expressions  # noqa: E402  # found there
from vendors.models import dyadic, exact_norm  # noqa: E402  # as well

IMAGE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))


def peer(**options):
    config = get_symmetric_quantization_config(is_per_channel=True, **options)
    return XNNPACKQuantizer().set_global(config)


def other_norm():
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_var, 0.25, 4)
    return norm


def models():
    torch.manual_seed(0)
    conv, linear = nn.Conv2d, nn.Linear
    return {
        "conv_relu": (nn.Sequential(conv(3, 4, 3), nn.ReLU()), IMAGE),
        "conv_without_bias": (conv(3, 4, 3, bias=False), IMAGE),
        "conv1d": (nn.Conv1d(3, 8, 3), IMAGE[..., 0]),
        "transposed_conv": (nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ReLU()), IMAGE),
        "linear": (linear(8, 4), ROWS),
        "linear_relu": (nn.Sequential(linear(8, 4), nn.ReLU(), linear(4, 2)), ROWS),
        "residual_add": (Apply(lambda s, x: F.relu(s.c(x) + x), c=conv(3, 3, 3, padding=1)), IMAGE),
        "add_number": (Apply(lambda s, x: s.c(x) + 2.5, c=conv(3, 3, 3)), IMAGE),
        "mul": (Apply(lambda s, x: s.c(x) * F.relu(x), c=conv(3, 3, 1)), IMAGE),
        "cat": (Apply(lambda s, x: s.d(torch.cat([s.c(x), x], 1)), c=conv(3, 3, 1), d=conv(6, 2, 1)), IMAGE),
        "max_pool": (nn.Sequential(conv(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)), IMAGE),
        "mean": (Apply(lambda s, x: F.relu(s.c(x)).mean((2, 3)), c=conv(3, 4, 3)), IMAGE),
        "average_pool": (nn.Sequential(conv(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(4, 2)), IMAGE),
        "depthwise": (nn.Sequential(conv(3, 6, 3, groups=3), nn.ReLU6(), conv(6, 4, 1)), IMAGE),
        "hardtanh": (nn.Sequential(conv(3, 4, 3), nn.Hardtanh()), IMAGE),
        "batch_norm": (nn.Sequential(dyadic(conv(3, 4, 3)), exact_norm(4, eps=0.0), nn.ReLU(), conv(4, 4, 1)), IMAGE),
        "moved": (
            Apply(lambda s, x: s.b(s.a(x).reshape(-1, 4).t().flatten()[:8]), a=linear(8, 8), b=linear(8, 8)),
            ROWS,
        ),
        "reused_layer": (Apply(lambda s, x: s.a(F.relu(s.a(x))), a=linear(8, 8)), ROWS),
        "two_readers": (Apply(lambda s, x: s.a(x) + s.b(x), a=linear(8, 8), b=linear(8, 8)), ROWS),
        "relu_beside": (Apply(lambda s, x: F.relu(y := s.c(x)) + y, c=conv(3, 3, 1)), IMAGE),
        # These come out otherwise; see below.
        "dropout": (nn.Sequential(linear(8, 8), nn.Dropout(), nn.ReLU()), ROWS),
        "other_batch_norm": (nn.Sequential(conv(3, 4, 3), other_norm()), IMAGE),
    }


MODELS = models()
OTHERWISE = {"dropout", "other_batch_norm"}


class Together(nn.Module):
    """Several models beside each other, each with an input and an output of its own.

    The quantizer traces its training patterns afresh whenever it annotates, which takes a second: so it does it once.
    """

    def __init__(self, names):
        super().__init__()
        self.models = nn.ModuleList(MODELS[name][0] for name in names)

    def forward(self, *inputs):
        return tuple(model(x) for model, x in zip(self.models, inputs, strict=True))


class Both:
    """The same models, converted by the two engines."""

    def __init__(self, export, names, **options):
        self.names = list(names)
        self.inputs = tuple(MODELS[name][1] for name in self.names)
        exported = export(Together(self.names), *self.inputs)
        theirs = their_engine.prepare_pt2e(copy.deepcopy(exported), peer(**options))
        ours = q.prepare_pt2e(exported, peer(**options))
        for batch in (self.inputs, [1.5 * x + 0.1 for x in self.inputs]):
            ours(*batch)
            theirs(*batch)
        self.converted = q.convert_pt2e(ours), their_engine.convert_pt2e(theirs)
        self._results = [model(*self.inputs) for model in self.converted]
        self._numbers = expressions(self.converted)

    def outputs(self, name):
        """Return the node that makes this model's output, on each engine."""
        index = self.names.index(name)
        return [next(reversed(model.graph.nodes)).args[0][index] for model in self.converted]

    def ops(self, name):
        """Return how often each op is called on the way to this model's output, on each engine."""
        calls = [[node for node in dependencies_of(node) if node.op == "call_function"] for node in self.outputs(name)]
        return [Counter(str(node.target) for node in nodes) for nodes in calls]

    def expressions(self, name):
        """Return what this model's output computes, on each engine."""
        return [self._numbers[node] for node in self.outputs(name)]

    def results(self, name):
        index = self.names.index(name)
        return [results[index] for results in self._results]


@pytest.fixture(scope="module")
def static(export):
    return Both(export, MODELS)


@pytest.fixture(scope="module")
def dynamic(export):
    return Both(export, ["conv_without_bias", "linear", "linear_relu", "depthwise", "two_readers"], is_dynamic=True)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in OTHERWISE])
def test_static_int8(static, name):
    ours, theirs = static.ops(name)
    assert ours == theirs
    assert ours["quantized_decomposed.quantize_per_tensor.default"] >= 2
    assert len(set(static.expressions(name))) == 1
    assert torch.equal(*static.results(name))


@pytest.mark.parametrize("name", ["conv_without_bias", "linear", "linear_relu", "depthwise"])
def test_dynamic_int8(dynamic, name):
    ours, theirs = dynamic.ops(name)
    assert ours == theirs
    assert ours["quantized_decomposed.choose_qparams.tensor"] >= 1
    assert len(set(dynamic.expressions(name))) == 1
    assert torch.equal(*dynamic.results(name))


def test_training():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2))
    exported = torch.export.export(module.train(), (IMAGE,)).module()
    ours = q.prepare_qat_pt2e(exported, peer(is_qat=True))
    theirs = their_engine.prepare_qat_pt2e(copy.deepcopy(exported), peer(is_qat=True))
    losses = _train(ours)
    assert losses == _train(theirs)
    assert losses[-1] < losses[0]
    torchao.move_exported_model_to_eval(theirs)
    converted = q.convert_pt2e(ours.eval()), their_engine.convert_pt2e(theirs)
    numbers = expressions(converted)
    assert len({numbers[next(reversed(model.graph.nodes))] for model in converted}) == 1
    assert torch.equal(*(model(IMAGE) for model in converted))


def _train(model, steps=5):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        loss = (model(IMAGE + 0.1 * torch.randn_like(IMAGE)) - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# What differs, and why


def test_a_dropout_is_gone_before_the_quantizer_looks(static):
    # Ours takes out what does nothing in inference, so linear and relu fuse. On torchao's engine the dropout between
    # them stays: the quantizer does not see a pair, and rounds the results of linear and dropout too.
    ours, theirs = static.ops("dropout")
    assert (ours["aten.dropout.default"], theirs["aten.dropout.default"]) == (0, 1)
    quantize = "quantized_decomposed.quantize_per_tensor.default"
    assert (ours[quantize], theirs[quantize]) == (2, 4)


def test_a_batch_norm_is_folded_in_float64(static):
    # torchao folds in float32: a weight, and so its scale, may come out a few units in the last place away.
    ours, theirs = static.ops("other_batch_norm")
    assert ours == theirs
    conv, norm = MODELS["other_batch_norm"][0]
    factor = (norm.weight / torch.sqrt(norm.running_var.double() + norm.eps)).reshape(-1, 1, 1, 1)
    largest = (conv.weight.double() * factor).abs().amax((1, 2, 3)).to(torch.float32)
    ours, theirs = (_weight_scale(node, model) for node, model in _converted(static, "other_batch_norm"))
    assert torch.equal(ours, largest / 127)
    assert torch.allclose(theirs, ours, rtol=2**-21, atol=0)  # some roundings in float32: fewer than 8 of 2⁻²⁴


def _converted(both, name):
    return zip(both.outputs(name), both.converted, strict=True)


def _weight_scale(output, model):
    (node,) = [node for node in dependencies_of(output) if "dequantize_per_channel" in str(node.target)]
    path, _, name = node.args[1].target.rpartition(".")
    return getattr(model.get_submodule(path), name)


def test_run_time_codes_have_a_dequantize_for_each_reader(dynamic):
    # torchao's engine gives static codes one dequantize a reader, as backends match them, but not dynamic ones.
    ours, theirs = dynamic.ops("two_readers")
    dequantize = "quantized_decomposed.dequantize_per_tensor.tensor"
    assert (ours.pop(dequantize), theirs.pop(dequantize)) == (2, 1)
    assert ours == theirs
    assert len(set(dynamic.expressions("two_readers"))) == 1
    assert torch.equal(*dynamic.results("two_readers"))


def test_a_quantizer_that_claims_nothing_says_so(export):
    # Its dynamic rules leave every convolution before a relu float; torchao's engine converts that in silence.
    module, x = MODELS["conv_relu"]
    exported = export(module, x)
    theirs = their_engine.convert_pt2e(their_engine.prepare_pt2e(copy.deepcopy(exported), peer(is_dynamic=True)))
    assert not any(is_quantize(node) for node in theirs.graph.nodes)
    with pytest.raises(q.NothingAnnotatedError, match="XNNPACKQuantizer annotated none of the model's 2 ops"):
        q.prepare_pt2e(exported, peer(is_dynamic=True))


def test_the_channel_axis_of_a_transposed_convolution_in_training():
    # The quantizer asks for axis 1, of a fused fake quantizer that knows axis 0 only. torchao's engine drops the axis,
    # because the class is not named PerChannel, and trains and converts along the wrong one.
    exported = torch.export.export(nn.ConvTranspose2d(3, 8, 3).train(), (IMAGE,)).module()
    theirs = their_engine.prepare_qat_pt2e(copy.deepcopy(exported), peer(is_qat=True))
    theirs(IMAGE)
    torchao.move_exported_model_to_eval(theirs)
    calls = [node for node in their_engine.convert_pt2e(theirs).graph.nodes if is_dequantize(node)]
    assert [node.args[3] for node in calls if "per_channel" in str(node.target)] == [0]
    with pytest.raises(RuntimeError, match="only supported on axis == 0"):
        q.prepare_qat_pt2e(exported, peer(is_qat=True))(IMAGE)


# On the kernels


def test_its_codes_run_on_integer_kernels(export):
    from peers.xnnpack import PEER

    assert PEER.schemes().keys() == {"s8.pc", "s8.pt"}
    module, x = MODELS["max_pool"]
    prepared = q.prepare_pt2e(export(module, x), PEER.quantizer())
    prepared(x)
    converted = q.convert_pt2e(prepared)
    program = PEER.lower(converted, (x,))
    kernels = [kernel for kernel in program.kernels() if not kernel.conversion and kernel.name != "StaticTranspose"]
    assert [(kernel.name, kernel.integer) for kernel in kernels] == [("Conv2d", True), ("MaxPooling2d", True)]
    (result,) = program.run(x)
    scale = next(node.args[1] for node in reversed(converted.graph.nodes) if is_dequantize(node))
    assert torch.round((result - converted(x)).abs() / scale).max() <= 1  # codes
