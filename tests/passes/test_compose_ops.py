"""Models that went through `run_decompositions` are quantized as those that did not."""

import pytest
import torch
from quantizers import Apply
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its name everywhere

from quantizer_sdk import Quantizer, calibrate, compare, convert_pt2e, explain, prepare_pt2e, prepare_qat_pt2e
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.passes.compose_ops import compose_ops
from quantizer_sdk.qdq import is_quantize

aten = torch.ops.aten


def module_of(layer):
    return Apply(lambda m, x: m.layer(x), layer=layer)


IMAGE, SIGNAL, VOLUME = (2, 4, 9, 9), (2, 4, 9), (2, 4, 5, 5, 5)
FORMS = {
    "conv1d": (aten.conv1d.default, module_of(nn.Conv1d(4, 6, 3, 2, 1, 2)), SIGNAL),
    "conv2d": (aten.conv2d.default, module_of(nn.Conv2d(4, 6, 3, (2, 1), 1, groups=2, bias=False)), IMAGE),
    "conv3d": (aten.conv3d.default, module_of(nn.Conv3d(4, 6, 3, dilation=2)), VOLUME),
    "conv_transpose1d": (aten.conv_transpose1d.default, module_of(nn.ConvTranspose1d(4, 6, 3, 2)), SIGNAL),
    "conv_transpose2d": (
        aten.conv_transpose2d.input,
        module_of(nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2, dilation=3)),
        IMAGE,
    ),
    "conv_transpose3d": (aten.conv_transpose3d.input, module_of(nn.ConvTranspose3d(4, 6, 2)), VOLUME),
    "batch_norm": (aten.batch_norm.default, module_of(nn.BatchNorm2d(4)), IMAGE),
    "batch_norm without affine": (aten.batch_norm.default, module_of(nn.BatchNorm1d(4, affine=False)), SIGNAL),
    "layer_norm": (aten.layer_norm.default, module_of(nn.LayerNorm(9)), SIGNAL),
    "softmax": (aten.softmax.int, Apply(lambda _m, x: torch.softmax(x, 1)), SIGNAL),
    "log_softmax": (aten.log_softmax.int, Apply(lambda _m, x: torch.log_softmax(x, -1)), SIGNAL),
    "max_pool2d": (aten.max_pool2d.default, Apply(lambda _m, x: F.max_pool2d(x, 3, 2, 1)), IMAGE),
    "max_pool3d": (aten.max_pool3d.default, Apply(lambda _m, x: F.max_pool3d(x, 2, ceil_mode=True)), VOLUME),
    "adaptive_avg_pool2d": (aten.adaptive_avg_pool2d.default, Apply(lambda _m, x: F.adaptive_avg_pool2d(x, 4)), IMAGE),
    "hardswish": (aten.hardswish.default, Apply(lambda _m, x: F.hardswish(4 * x)), IMAGE),
    "hardsigmoid": (aten.hardsigmoid.default, Apply(lambda _m, x: F.hardsigmoid(4 * x)), IMAGE),
}


def decomposed(module, *inputs):
    return torch.export.export(module.eval(), inputs).run_decompositions().module()


def targets_of(model):
    return [node.target for node in model.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", FORMS)
def test_an_op_is_what_its_module_calls_and_gives_the_same_bits(name):
    target, module, shape = FORMS[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    model = decomposed(module, x)
    assert target not in targets_of(model)
    expected = model(x)
    compose_ops(model)
    model.graph.lint()
    model.recompile()
    assert targets_of(model).count(target) == 1
    assert torch.equal(model(x), expected)
    (composed,) = model.graph.find_nodes(op="call_function", target=target)
    assert composed.meta["val"].shape == expected.shape
    compose_ops(model)  # nothing is left to do
    assert targets_of(model).count(target) == 1


KEPT = {
    "indices are read": (aten.max_pool2d_with_indices.default, lambda x: F.max_pool2d(x, 2, return_indices=True)),
    "another number": (aten.div.Tensor, lambda x: x * torch.clamp(torch.clamp(x + 3, 0), max=6) / 5),
    "other ends": (aten.div.Tensor, lambda x: x * torch.clamp(torch.clamp(x + 3, 1), max=6) / 6),
    "another factor": (aten.div.Tensor, lambda x: torch.relu(x) * torch.clamp(torch.clamp(x + 3, 0), max=6) / 6),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_quite_such_an_op_stays(name):
    target, function = KEPT[name]
    model = decomposed(Apply(lambda _m, x: function(x)), torch.randn(IMAGE))
    before = targets_of(model)
    compose_ops(model)
    assert target in before
    assert targets_of(model) == before


def test_what_is_read_of_a_chain_stays_beside_it():
    def function(x):
        clamped = torch.clamp(torch.clamp(x + 3, 0), max=6)
        return x * clamped / 6, clamped

    model, x = decomposed(Apply(lambda _m, x: function(x)), torch.randn(IMAGE)), torch.randn(IMAGE)
    expected = model(x)
    compose_ops(model)
    model.recompile()
    assert all(torch.equal(one, other) for one, other in zip(model(x), expected, strict=True))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.pool = nn.Conv2d(8, 8, 3, groups=8), nn.MaxPool2d(2)
        self.up, self.head = nn.ConvTranspose2d(8, 6, 2, 2), nn.Linear(6, 4)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = F.hardswish(self.depthwise(torch.relu(self.norm(self.stem(x)))))
        return torch.softmax(self.head(self.up(self.pool(x)).mean((2, 3))), -1)


def xnnpack(**options):
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, **options))


QUANTIZERS = {
    "XNNPACK": xnnpack,
    "x86": lambda: X86Quantizer("onednn").set_global(get_default_x86_quantization_config()),
}


def quantized(exported, quantizer, batches):
    prepared = prepare_pt2e(exported, quantizer)
    calibrate(prepared, batches)
    return convert_pt2e(prepared)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_decomposed_model_is_quantized_like_the_one_it_was(name):
    torch.manual_seed(0)
    net, batches = Net().eval(), [torch.randn(2, 3, 12, 12) for _ in range(3)]
    one = quantized(torch.export.export(net, (batches[0],)).module(), QUANTIZERS[name](), batches)
    other = quantized(decomposed(net, batches[0]), QUANTIZERS[name](), batches)
    assert sum(map(is_quantize, one.graph.nodes)) == sum(map(is_quantize, other.graph.nodes)) > 3
    assert all(torch.equal(one(x), other(x)) for x in batches)


def test_explain_and_compare_know_its_ops():
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 12, 12)
    model = decomposed(net, x)
    report = explain(model, xnnpack())
    assert {op.node for op in report.ops if op.state == "float"} == {"_softmax"}
    layers = {layer.node for layer in compare(model, quantized(model, xnnpack(), [x]), [x]).layers}
    assert {"convolution_1", "convolution_2"} <= layers


def test_rules_name_either_op():
    net, x = Net().eval(), torch.randn(2, 3, 12, 12)
    for op in (aten.convolution.default, aten.conv2d.default):
        report = explain(decomposed(net, x), xnnpack().set_operator_type(op, None))
        assert {it.node for it in report.ops if it.state == "float"} >= {"convolution", "convolution_1"}


@pytest.mark.parametrize("training", [False, True])
def test_a_model_decomposed_in_either_mode_trains_like_the_one_it_was(training):
    torch.manual_seed(0)
    net, batches = Net().train(training), [torch.randn(4, 3, 12, 12) for _ in range(3)]
    programs = [torch.export.export(net, (batches[0],)) for _ in range(2)]
    models = [programs[0].module(), programs[1].run_decompositions().module()]
    results = []
    for model in models:
        trained = prepare_qat_pt2e(model, xnnpack(is_qat=True))
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
        for x in batches:
            optimizer.zero_grad()
            trained(x).square().sum().backward()
            optimizer.step()
        assert trained.state_dict()["norm.num_batches_tracked"] == 3
        results.append(convert_pt2e(trained.eval())(batches[0]))
    assert torch.equal(*results)


def test_a_norm_that_is_called_twice_in_training_stays_as_it_is():
    norm = nn.BatchNorm2d(4).train()
    program = torch.export.export(Apply(lambda m, x: m.norm(m.norm(x)), norm=norm).train(), (torch.randn(IMAGE),))
    model = program.run_decompositions().module()
    x = torch.randn(IMAGE)
    norms = [target for target in targets_of(model) if "batch_norm" in str(target)]
    compose_ops(model)
    model.recompile()
    model(x)
    reference = program.module()
    reference(x)
    assert len(norms) == 2
    for name, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


class Recording(Quantizer):
    def __init__(self, takes_core_aten):
        self.takes_core_aten, self.seen = takes_core_aten, []

    def annotate(self, model):
        self.seen = targets_of(model)
        return model


class Mixing(nn.Module):
    """A linear layer whose input is not contiguous: decomposed, it is a product in batches."""

    def __init__(self, bias):
        super().__init__()
        self.layer = nn.Linear(6, 10, bias=bias)

    def forward(self, x):
        return torch.relu(self.layer(x.transpose(0, 1)))


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_that_was_decomposed_into_a_batched_product(bias):
    torch.manual_seed(0)
    x = torch.randn(5, 3, 6)
    model = decomposed(Mixing(bias), x)
    assert aten.bmm.default in targets_of(model)
    expected = model(x)
    compose_ops(model)
    model.graph.lint()
    model.recompile()
    assert targets_of(model).count(aten.linear.default) == 1
    assert not {aten.bmm.default, aten.add.Tensor, aten.expand.default} & set(targets_of(model))
    assert torch.allclose(model(x), expected, atol=1e-6)


def test_open_sizes_stay_open():
    x = torch.randn(5, 3, 6)
    program = torch.export.export(Mixing(bias=True).eval(), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    model = program.run_decompositions().module()
    inputs = [torch.randn(n, 3, 6) for n in (2, 7)]
    expected = [model(it) for it in inputs]
    compose_ops(model)
    model.recompile()
    assert aten.linear.default in targets_of(model)
    assert all(torch.allclose(model(it), one, atol=1e-6) for it, one in zip(inputs, expected, strict=True))


def test_a_batched_product_of_activations_stays():
    model = decomposed(Apply(lambda _m, x: torch.matmul(x, x.transpose(1, 2))), torch.randn(SIGNAL))
    compose_ops(model)
    assert aten.bmm.default in targets_of(model)
    assert aten.expand.default not in targets_of(model)


def test_attention_of_torch_is_quantized_as_much_as_it_was():
    torch.manual_seed(0)
    layer, x = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval(), torch.randn(2, 5, 16)
    reports = [explain(model, xnnpack()) for model in (torch.export.export(layer, (x,)).module(), decomposed(layer, x))]
    quantized_macs = [sum(op.macs or 0 for op in it.ops if op.state == "quantized") for it in reports]
    assert quantized_macs[0] == quantized_macs[1] > 0


class Elsewhere:
    """A quantizer of another library."""

    def annotate(self, model):
        self.seen = targets_of(model)


@pytest.mark.parametrize("quantizer", [Recording(takes_core_aten=True), Elsewhere()])
def test_quantizers_of_other_libraries_see_the_ops_as_they_are_but_folded(quantizer):
    net, x = Net().eval(), torch.randn(2, 3, 12, 12)
    explain(decomposed(net, x), quantizer)
    assert aten.max_pool2d_with_indices.default in quantizer.seen
    assert aten.convolution.default in quantizer.seen


def test_norms_decomposed_in_training_train_for_them_too():
    class Annotating(Elsewhere):
        def annotate(self, model):
            X86Quantizer("onednn").set_global(get_default_x86_quantization_config(is_qat=True)).annotate(model)

    net, x = Net().train(), torch.randn(4, 3, 12, 12)
    table = torch.export.default_decompositions()
    table.pop(aten.conv2d.default, None)
    program = torch.export.export(net, (x,)).run_decompositions(table)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # as it is, it cannot be trained
        program.module()(x).square().mean().backward()
    trained = prepare_qat_pt2e(program.module(), Annotating())
    before = trained.state_dict()["norm.num_batches_tracked"].clone()
    trained(x).square().mean().backward()
    assert trained.state_dict()["norm.num_batches_tracked"] == before + 1


def test_norms_behind_convolutions_that_another_library_asked_to_keep_are_folded():
    net, x = Net().eval(), torch.randn(2, 3, 12, 12)
    table = torch.export.default_decompositions()
    table.pop(aten.conv2d.default, None)
    model = torch.export.export(net, (x,)).run_decompositions(table).module()
    quantizer = Elsewhere()
    explain(model, quantizer)
    assert aten.conv2d.default in quantizer.seen
    assert not {aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default} & set(quantizer.seen)
