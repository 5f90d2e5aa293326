"""The forms of a converted model, what its nodes carry, and models that give the engine little to go by."""

import copy

import pytest
import torch
from quantizers import CONFIG, INT8, WEIGHT8, Apply, SmallTable, by_hand
from torch import nn

from quantizer_sdk import QuantizationSpec, SharedQuantizationSpec, calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer
from quantizer_sdk.observers import MinMaxObserver, PerAxis

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(2, 3, 8, 8)
QUANTIZE = torch.ops.quantized_decomposed


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(36, 5)
        self.drop = nn.Dropout(0.4)

    def forward(self, x):
        x = self.pool(torch.relu(self.norm(self.conv(x))))
        return self.fc(self.drop(torch.flatten(x, 1)))


def calls(model, word):
    return [node for node in model.graph.nodes if node.op == "call_function" and word in str(node.target)]


def calibrated(model, quantizer, *batches):
    prepared = prepare_pt2e(model, quantizer)
    calibrate(prepared, batches)
    return prepared


@pytest.fixture
def prepared(export):
    model = export(Apply(lambda self, x: torch.relu(self.fc(x)), fc=nn.Linear(8, 4)), X)
    return calibrated(model, by_hand({"linear": ({"x": INT8, "fc_weight": WEIGHT8}, None), "relu": ({}, INT8)}), X)


# Forms


def test_qparams_as_buffers_can_be_changed(prepared):
    literal, buffers = convert_pt2e(prepared), convert_pt2e(prepared, tensor_qparams=True)
    assert {node.target for node in calls(literal, "per_tensor")} == {
        QUANTIZE.quantize_per_tensor.default,
        QUANTIZE.dequantize_per_tensor.default,
    }
    assert {node.target for node in calls(buffers, "per_tensor")} == {
        QUANTIZE.quantize_per_tensor.tensor,
        QUANTIZE.dequantize_per_tensor.tensor,
    }
    assert torch.equal(literal(X), buffers(X))
    scale = calls(buffers, "quantize_per_tensor")[0].args[1]
    assert scale.op == "get_attr"
    buffers.state_dict()[scale.target].mul_(8)
    assert not torch.equal(literal(X), buffers(X))


def test_unfolded_weights_are_quantized_in_each_run(prepared):
    folded, unfolded = convert_pt2e(prepared), convert_pt2e(prepared, fold_quantize=False)
    assert unfolded.state_dict()["fc.weight"].dtype == torch.float32
    assert folded.state_dict()["fc.weight"].dtype == torch.int8
    (quantize,) = calls(unfolded, ".quantize_per_channel")
    assert quantize.args[0].target == "fc.weight"
    assert torch.equal(folded(X), unfolded(X))
    with torch.no_grad():
        unfolded.fc.weight.mul_(0.5)
    assert not torch.equal(folded(X), unfolded(X))


def test_unfolded_models_keep_no_unused_tensors_either(export):
    prepared = calibrated(export(Net(), IMAGE), XNNPACKQuantizer(), IMAGE)
    names = set(convert_pt2e(prepared, fold_quantize=False).state_dict())
    assert not [name for name in names if "num_batches" in name or "running" in name]


def test_the_arguments_stand_in_pt2es_order(prepared):
    assert torch.equal(convert_pt2e(prepared, False, True)(X), convert_pt2e(prepared)(X))
    assert "quantized_decomposed" not in convert_pt2e(prepared, True).code


# What nodes carry


def test_provenance_and_keys_of_ones_own_are_ported(export):
    model = export(Net(), IMAGE)
    for node in model.graph.nodes:
        node.meta["mine"] = node.name
        node.meta["custom"] = {"origin": node.name}
    converted = convert_pt2e(calibrated(model, XNNPACKQuantizer(), IMAGE))
    for node in calls(converted, "quantize_per"):
        producer, (user, *_more) = node.args[0], node.users
        owner = (
            user
            if node.target in (QUANTIZE.dequantize_per_tensor.default, QUANTIZE.dequantize_per_channel.default)
            else producer
        )
        if not owner.meta.get("stack_trace"):
            continue
        for key in ("stack_trace", "nn_module_stack", "mine", "custom", "from_node"):
            assert node.meta.get(key) == owner.meta.get(key), (node, key)
    of_weight = next(node for node in calls(converted, "dequantize_per_channel"))
    assert next(iter(of_weight.users)).meta["nn_module_stack"] == of_weight.meta["nn_module_stack"]


def test_nothing_stale_is_left(export):
    model = export(Net(), IMAGE)
    converted = convert_pt2e(calibrated(model, XNNPACKQuantizer(), IMAGE))
    for node in converted.graph.nodes:
        assert node.users or node.op in {"output", "placeholder"}, node
        assert not any("quantization_annotation" in str(key) for key in node.meta)
    read = {str(node.target) for node in converted.graph.nodes if node.op == "get_attr"}
    assert read == set(converted.state_dict())
    assert not [name for name, _child in converted.named_modules() if "activation_post_process" in name]


# Little to go by


def without_values(model):
    for node in model.graph.nodes:
        for key in ("val", "tensor_meta", "stack_trace", "nn_module_stack"):
            node.meta.pop(key, None)
    return model


@pytest.mark.parametrize("quantizer", [lambda: SmallTable().set_global(CONFIG), XNNPACKQuantizer])
def test_a_model_without_example_values_is_quantized_alike(export, quantizer):
    module = Net()
    with_values = convert_pt2e(calibrated(export(module, IMAGE), quantizer(), IMAGE))
    without = convert_pt2e(calibrated(without_values(export(module, IMAGE)), quantizer(), IMAGE))
    assert torch.equal(with_values(IMAGE), without(IMAGE))
    assert explain(without).count("quantized") == explain(with_values).count("quantized")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_float_type_of_a_model_without_values_is_that_of_its_calibration(export, dtype):
    x = X.to(dtype)
    quantizer = by_hand({"linear": ({"input_1": INT8, "weight": WEIGHT8}, INT8)})
    converted = convert_pt2e(calibrated(without_values(export(nn.Linear(8, 4).to(dtype), x)), quantizer, x))
    assert converted(x).dtype == dtype


def test_blocks_of_a_model_without_values_are_those_of_its_calibration(export):
    spec = QuantizationSpec(
        torch.int8, MinMaxObserver.with_args(granularity=PerAxis(-1)), qscheme=torch.per_tensor_affine
    )
    quantizer = by_hand({"linear": ({"input_1": spec}, None)})
    converted = convert_pt2e(calibrated(without_values(export(nn.Linear(8, 4), X)), quantizer, X))
    assert calls(converted, "quantize_per_channel")[0].args[3] == 1


# Graphs of every shape


def test_outputs_of_an_op_with_several(export):
    def run(_self, x):
        values, indices = torch.topk(x, 3)
        left, right = torch.split(x, 4, dim=1)
        return values, indices, left + right

    model = export(Apply(run), X)
    nodes = {node.name: node for node in model.graph.nodes}
    values, left = (
        next(n for n in nodes.values() if n.name.startswith("getitem") and n.args == (nodes[of], 0))
        for of in ("topk", "split")
    )
    quantizer = by_hand({values.name: ({}, INT8), "split": ({"x": INT8}, None), left.name: ({}, INT8)})
    converted = convert_pt2e(calibrated(model, quantizer, X))
    got, expected = converted(X), model(X)
    assert torch.equal(got[1], expected[1])
    assert 0 < (got[0] - expected[0]).abs().max() < 0.02
    assert 0 < (got[2] - expected[2]).abs().max() < 0.05


def test_operands_given_by_keyword(export):
    def run(_self, x, y):
        return torch.ops.aten.add.Tensor(x, other=y) + torch.ops.aten.mul.Tensor(self=x, other=y)

    y = torch.randn(3, 8)
    model = export(Apply(run), X, y)
    for node in model.graph.nodes:
        if node.target is torch.ops.aten.add.Tensor and len(node.users) == 1 and "x" in str(node.args):
            node.args, node.kwargs = (node.args[0],), {"other": node.args[1]}
    model.recompile()
    quantizer = by_hand({"add": ({"x": INT8, "others_0": INT8}, INT8)})
    converted = convert_pt2e(calibrated(model, quantizer, (X, y)))
    add = next(node for node in converted.graph.nodes if node.name == "add")
    assert "dequantize" in add.kwargs["other"].name
    assert (converted(X, y) - model(X, y)).abs().max() < 0.1


def test_inputs_and_outputs_of_the_model(export):
    model = export(Apply(lambda _self, x: torch.sin(x)), X)

    def shared(nodes):
        return SharedQuantizationSpec(nodes["x"])

    quantizer = by_hand({"x": ({}, INT8), "output": ({"sin": shared}, None)})
    converted = convert_pt2e(calibrated(model, quantizer, X))
    codes = calls(converted, ".quantize_per_tensor")
    assert len(codes) == 2
    assert codes[0].args[1:] == codes[1].args[1:]
    (result,) = converted.graph.find_nodes(op="output")[0].all_input_nodes
    assert "dequantize" in result.name


def test_tied_weights_and_modules_called_several_times(export):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(torch.relu(self.one(x))))

    model = export(Tied(), X)
    converted = convert_pt2e(calibrated(model, SmallTable().set_global(CONFIG), X))
    assert (converted(X) - model(X)).abs().max() < 0.1
    matrices = [value for value in converted.state_dict().values() if value.dim() == 2]
    assert [value.dtype for value in matrices] == [torch.int8]


@pytest.mark.parametrize("quantizer", [lambda: SmallTable().set_global(CONFIG), XNNPACKQuantizer])
def test_dynamic_batch_and_sequence(export, quantizer):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(8, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)

        def forward(self, x):
            return self.layer(self.embed(x))

    x = torch.randn(2, 5, 8)
    shapes = ({0: torch.export.Dim("batch", min=2, max=16), 1: torch.export.Dim("sequence", min=2, max=32)},)
    model = export(Encoder(), x, dynamic_shapes=shapes)
    batches = [torch.randn(3, 7, 8), torch.randn(4, 9, 8)]
    converted = convert_pt2e(calibrated(model, quantizer(), *batches))
    for shape in ((2, 5, 8), (6, 3, 8), (3, 11, 8)):
        each = torch.randn(shape)
        assert (converted(each) - model(each)).abs().max() < 0.4
    again = torch.export.export(converted, (x,), dynamic_shapes=shapes).module()
    assert torch.equal(again(batches[0]), converted(batches[0]))


def test_a_prepared_model_may_be_prepared_no_more_but_converted_again(export):
    model = export(Net(), IMAGE)
    prepared = calibrated(model, XNNPACKQuantizer(), IMAGE)
    code = prepared.code
    first = convert_pt2e(prepared)
    calibrate(prepared, [2 * IMAGE])
    assert prepared.code == code
    assert not torch.equal(first(IMAGE), convert_pt2e(prepared)(IMAGE))
    assert torch.equal(copy.deepcopy(first)(IMAGE), first(IMAGE))
