"""This library's quantizers on torchao's engine: the same graph and bits as on ours, or an error by name."""

import copy
import dataclasses
import importlib.util

import pytest
import torch
import torchao.quantization.pt2e as torchao
from quantizers import CONFIG, INT8, WEIGHT8, Apply, SmallTable, by_hand
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its name everywhere
from torchao.quantization.pt2e import quantize_pt2e as their_engine
from torchao.quantization.pt2e import quantizer as theirs
from torchao.quantization.pt2e.quantizer.embedding_quantizer import EmbeddingQuantizer

import quantizer_sdk as q
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.interop.torchao import as_torchao
from quantizer_sdk.observers import MinMaxObserver, PerGroup
from quantizer_sdk.qdq import is_dequantize, is_quantize

GENERATOR = torch.Generator().manual_seed(5)
IMAGE = torch.randn(2, 3, 10, 10, generator=GENERATOR)
ROWS = torch.randn(4, 32, generator=GENERATOR)


class Everything(nn.Module):
    """A convolution, its relu and pool, a residual branch, two linear layers with a dropout between, a function."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.a(x)), 2)
        y = (self.b(y) + y).mean((2, 3))
        return torch.sigmoid(self.out(F.dropout(F.relu(self.fc(y)), 0.3, self.training)))


def xnnpack(**options):
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, **options))


def x86(**options):
    return X86Quantizer().set_global(get_default_x86_quantization_config(reduce_range=False, **options))


def nodes_of(model):
    """Return what the nodes compute, up to names and order: each by what it is made of, constants by their values."""
    known = {}

    def of(value):
        if isinstance(value, torch.fx.Node):
            return known[value]
        return tuple(map(of, value)) if isinstance(value, (list, tuple)) else repr(value)

    for node in model.graph.nodes:
        if node.op == "get_attr":
            path, _, name = node.target.rpartition(".")
            tensor = getattr(model.get_submodule(path), name)
            known[node] = hash((str(tensor.dtype), tuple(tensor.shape), tuple(tensor.flatten().tolist())))
        elif node.op != "call_module":  # export's guards
            known[node] = hash((node.op, str(node.target), of(node.args), of(sorted(node.kwargs.items()))))
    return sorted(known.values())


def on_both(exported, make, *inputs):
    ours, there = q.prepare_pt2e(exported, make()), prepared_there(exported, make())
    for batch in (inputs, [1.5 * x + 0.1 for x in inputs]):
        ours(*batch)
        there(*batch)
    return q.convert_pt2e(ours), their_engine.convert_pt2e(there)


def prepared_there(exported, quantizer, **options):
    return their_engine.prepare_pt2e(copy.deepcopy(exported), as_torchao(quantizer, **options))


@pytest.mark.parametrize(
    "make",
    [
        xnnpack,
        lambda: xnnpack(is_dynamic=True),
        x86,
        lambda: x86(is_dynamic=True, is_per_token=True),
        lambda: x86(is_weight_only=True),
        lambda: SmallTable().set_global(CONFIG),
    ],
    ids=["xnnpack", "xnnpack rows", "x86", "x86 tokens", "x86 weights", "table"],
)
def test_the_same_graph_and_bits(export, make):
    ours, there = on_both(export(Everything(), IMAGE), make, IMAGE)
    assert any(is_dequantize(node) for node in there.graph.nodes)
    assert set(nodes_of(ours)) == set(nodes_of(there))
    assert torch.equal(ours(IMAGE), there(IMAGE))


def test_groups_and_blocks_which_torchao_has_no_ops_for(export):
    ours, there = on_both(export(nn.Linear(32, 4), ROWS), lambda: xnnpack(is_dynamic=True, bits=4, group_size=32), ROWS)
    assert "choose_qparams_per_token" in str([node.target for node in there.graph.nodes])
    assert nodes_of(ours) == nodes_of(there)
    assert torch.equal(ours(ROWS), there(ROWS))

    def blocks():
        squares = MinMaxObserver.with_args(granularity=PerGroup(8))
        return by_hand({"linear": ({"weight": q.QuantizationSpec(torch.int4, squares)}, None)})

    ours, there = on_both(export(nn.Linear(32, 4), ROWS), blocks, ROWS)
    assert nodes_of(ours) == nodes_of(there)


def test_casts(export):
    spec = q.QuantizationSpec(torch.bfloat16)
    ours, there = on_both(export(nn.Linear(32, 4), ROWS), lambda: by_hand({"linear": ({"input_1": spec}, spec)}), ROWS)
    assert torch.equal(ours(ROWS), there(ROWS))


def test_a_bias_that_overflows_is_mended_by_its_weight(export):
    linear = nn.Linear(32, 4)
    with torch.no_grad():
        linear.weight.mul_(1e-9)
        linear.bias.fill_(3.0)
    ours, there = on_both(export(linear, ROWS), x86, ROWS)
    assert nodes_of(ours) == nodes_of(there)
    assert torch.allclose(there(ROWS), linear(ROWS), atol=0.05)


def test_an_operand_given_by_name(export):
    exported = export(Apply(lambda s, x: F.linear(x, s.w), w=nn.Parameter(torch.randn(4, 32))), ROWS)
    (linear,) = [node for node in exported.graph.nodes if node.target is torch.ops.aten.linear.default]
    linear.args, linear.kwargs = linear.args[:1], {"weight": linear.args[1]}
    ours, there = on_both(exported, lambda: by_hand({"linear": ({"x": INT8, "w": WEIGHT8}, None)}), ROWS)
    assert sum(is_dequantize(node) for node in there.graph.nodes) == 2
    assert torch.equal(ours(ROWS), there(ROWS))


def test_points_that_share_in_any_direction(export):
    def forwards(nodes):
        return q.SharedQuantizationSpec((nodes["x"], nodes["sigmoid"]))

    module = Apply(lambda s, x: torch.sigmoid(x) + torch.tanh(x))
    spec = by_hand({"tanh": ({"x": forwards}, None), "sigmoid": ({"x": INT8}, INT8)})
    exported = export(module, ROWS)
    tanh = next(node for node in exported.graph.nodes if node.name == "tanh")
    next(node for node in exported.graph.nodes if node.name == "sigmoid").prepend(tanh)  # it refers to a later node now
    ours, there = on_both(exported, lambda: spec, ROWS)
    assert set(nodes_of(ours)) == set(nodes_of(there))


# Training


def trained(model, *inputs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        loss = (model(*inputs) - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("make", [xnnpack, x86])
def test_training_takes_the_same_steps(make):
    module = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4))
    module[3] = module[2]  # whose bias has qparams of its own at each call
    exported = torch.export.export(module.train(), (ROWS,)).module()
    ours = q.prepare_qat_pt2e(exported, make(is_qat=True))
    there = their_engine.prepare_qat_pt2e(copy.deepcopy(exported), as_torchao(make(is_qat=True)))
    assert trained(ours, ROWS) == trained(there, ROWS)
    ours, there = q.convert_pt2e(ours.eval()), their_engine.convert_pt2e(there)
    assert nodes_of(ours) == nodes_of(there)
    assert torch.equal(ours(ROWS), there(ROWS))


class Trained(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(F.dropout(F.relu(self.norm(self.conv(x))).mean((2, 3)), 0.25, self.training))


def test_norms_and_dropouts_are_annotated_as_in_inference():
    exported = torch.export.export(Trained().train(), (IMAGE,)).module()
    config = get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
    with pytest.raises(q.UnsupportedError, match=r"conv_bias -> conv2d: .*has a batch norm behind it.*bias=None"):
        their_engine.prepare_qat_pt2e(copy.deepcopy(exported), as_torchao(XNNPACKQuantizer().set_global(config)))
    quantizer = XNNPACKQuantizer().set_global(dataclasses.replace(config, bias=None))
    there = their_engine.prepare_qat_pt2e(copy.deepcopy(exported), as_torchao(quantizer))
    ours = q.prepare_qat_pt2e(exported, quantizer)
    for model in (ours, there):
        assert sum("dropout" in str(node.target) for node in model.graph.nodes) == 1
    assert trained(ours, IMAGE)[0] == trained(there, IMAGE)[0]
    torchao.move_exported_model_to_eval(there)
    ours, there = q.convert_pt2e(ours.eval()), their_engine.convert_pt2e(there)
    count = [sum(is_quantize(node) for node in model.graph.nodes) for model in (ours, there)]
    assert count == [5, 5]
    assert not any("batch_norm" in str(node.target) for node in there.graph.nodes)


def test_torchaos_switches_reach_the_fake_quantizers():
    exported = torch.export.export(nn.Linear(32, 4), (ROWS,)).module()
    model = their_engine.prepare_qat_pt2e(exported, as_torchao(x86(is_qat=True)))
    model(ROWS)
    fakes = [module for module in model.modules() if isinstance(module, torchao.FakeQuantizeBase)]
    before = [fake.calculate_qparams()[0].clone() for fake in fakes]
    model.apply(torchao.disable_observer)
    model(5 * ROWS)
    assert all(torch.equal(fake.calculate_qparams()[0], scale) for fake, scale in zip(fakes, before, strict=True))
    model.apply(torchao.disable_fake_quant)
    linear = [node for node in model.graph.nodes if node.target is torch.ops.aten.linear.default]
    weight, bias = model.get_parameter("weight"), model.get_parameter("bias")
    assert len(linear) == 1
    assert torch.equal(model(ROWS), F.linear(ROWS, weight, bias))


def test_plain_specs_are_trained_if_it_is_told(export):
    spec = by_hand({"linear": ({"input_1": INT8, "weight": WEIGHT8}, INT8)})
    exported = torch.export.export(nn.Linear(32, 4), (ROWS,)).module()
    model = their_engine.prepare_qat_pt2e(copy.deepcopy(exported), as_torchao(spec, is_qat=True))
    assert not torch.equal(model(ROWS), exported(ROWS))


# What it is, and what it refuses


def test_it_is_a_quantizer_of_torchaos_class_and_theirs_stay_as_they_are():
    quantizer = as_torchao(xnnpack())
    assert isinstance(quantizer, theirs.Quantizer)
    assert as_torchao(quantizer) is quantizer
    assert not quantizer.is_qat
    assert as_torchao(xnnpack(is_qat=True)).is_qat
    with pytest.raises(q.NotAQuantizerError):
        as_torchao({})


def test_beside_a_quantizer_of_torchaos(export):
    embedding = EmbeddingQuantizer()
    exported = export(nn.Sequential(nn.Embedding(8, 32), nn.Linear(32, 4)), torch.tensor([1, 2]))
    both = theirs.ComposableQuantizer([embedding, as_torchao(xnnpack())])
    prepared = their_engine.prepare_pt2e(exported, both)
    prepared(torch.tensor([3, 4]))
    converted = their_engine.convert_pt2e(prepared)
    assert {node.target._opname for node in converted.graph.nodes if is_dequantize(node)} == {
        "dequantize_per_channel",
        "dequantize_per_tensor",
    }


def test_its_callback_is_called_with_our_observers(export):
    class Watching(XNNPACKQuantizer):
        def prepare_obs_or_fq_callback(self, model, edge_or_node_to_obs_or_fq):
            for point, observer in edge_or_node_to_obs_or_fq.items():
                if isinstance(observer, q.observers.HistogramObserver):
                    fixed = q.observers.FixedQParamsObserver(0.5, 3, dtype=torch.int8)
                    edge_or_node_to_obs_or_fq[point] = fixed

    config = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = Watching().set_global(dataclasses.replace(config, bias=None))
    prepared = prepared_there(export(nn.Linear(32, 4), ROWS), quantizer)
    prepared(ROWS)
    scales = [node.args[1] for node in their_engine.convert_pt2e(prepared).graph.nodes if is_quantize(node)]
    assert scales == [0.5, 0.5]


def test_a_quantizer_that_claims_nothing(export):
    with pytest.raises(q.NothingAnnotatedError, match="SmallTable annotated none"):
        prepared_there(export(nn.ELU(), ROWS), SmallTable().set_global(CONFIG))


def test_control_flow(export):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(32, 4)

        def forward(self, x):
            return torch.cond(x.sum() > 0, self.fc, lambda y: self.fc(-y), (x,))

    with pytest.raises(q.UnsupportedError, match=r"annotated linear .*inside control flow"):
        prepared_there(export(Branches(), ROWS), SmallTable().set_global(CONFIG))


def test_observers_that_saw_nothing(export):
    prepared = prepared_there(export(nn.Linear(32, 4), ROWS), xnnpack())
    with pytest.raises(q.UncalibratedError):
        their_engine.convert_pt2e(prepared)


def test_without_torchao(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(q.MissingDependencyError, match=r"quantizer-sdk\[torchao\]"):
        as_torchao(xnnpack())


def test_explain_says_what_became_of_each_op(export):
    prepared = prepared_there(export(Everything(), IMAGE), xnnpack())
    assert {op.state for op in q.explain(prepared).ops} >= {"quantized", "shared"}
