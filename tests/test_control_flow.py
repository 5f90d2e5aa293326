"""Ops inside cond, map, scan, while_loop and no_grad regions are quantized like any others."""

import io

import pytest
import torch
from functorch.experimental.control_flow import map as control_map
from quantizers import CONFIG, INT8, WEIGHT8, Apply, ByHand, SmallTable, annotation
from torch import nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from quantizer_sdk import (
    ComposableQuantizer,
    NothingAnnotatedError,
    UncalibratedError,
    UnusedRuleWarning,
    calibrate,
    convert_pt2e,
    explain,
    prepare_pt2e,
)
from quantizer_sdk.control_flow import graphs_of

X = torch.randn(6, 4)


class Cond(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: torch.relu(self.a(y)), lambda y: self.b(y) + y, (x,))


class Map(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return control_map(lambda row: torch.relu(self.a(row)), x)


class Scan(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        def step(carry, row):
            carry = torch.tanh(self.a(carry) + row)
            return carry, carry.clone()

        return scan(step, torch.zeros(4), x)


class While(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        step = torch.zeros((), dtype=torch.int64)
        return while_loop(lambda i, _y: i < 3, lambda i, y: (i + 1, torch.tanh(self.a(y))), (step, x))[1]


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        def row(y):
            return torch.cond(y.sum() > 0, self.a, self.b, (y,))

        return control_map(row, x)


class NoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        with torch.no_grad():
            y = self.norm(self.conv(x))
        return self.fc(torch.relu(y).mean((2, 3)))


MODELS = {
    "cond": (Cond, ["true_graph_0/linear", "false_graph_0/linear", "false_graph_0/add"]),
    "map": (Map, ["body_graph_0/linear"]),
    "scan": (Scan, ["scan_combine_graph_0/linear", "scan_combine_graph_0/add"]),
    "while_loop": (While, ["while_loop_body_graph_0/linear"]),
    "nested": (Nested, ["body_graph_0.true_graph_0/linear", "body_graph_0.false_graph_0/linear"]),
}
NAMES = pytest.mark.parametrize("name", MODELS)


def quantizer():
    return SmallTable().set_global(CONFIG)


def converted_model(export, name):
    model = export(MODELS[name][0](), X)
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [X, -X])
    return model, convert_pt2e(prepared)


def tensors(result):
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def close(one, other):
    return all((a - b).abs().max() < 0.1 for a, b in zip(tensors(one), tensors(other), strict=True))


@NAMES
def test_explain_sees_the_ops_inside(export, name):
    found = {op.node: op.state for op in explain(export(MODELS[name][0](), X), quantizer()).ops}
    assert [node for node, state in found.items() if state == "quantized"] == MODELS[name][1]
    assert not any(node.split("/")[-1] in {"cond", "map_impl", "scan", "while_loop"} for node in found)


@NAMES
def test_the_prepared_model_computes_the_float_model(export, name):
    model = export(MODELS[name][0](), X)
    prepared = prepare_pt2e(model, quantizer())
    for x in (X, -X):
        with torch.no_grad():
            pairs = zip(tensors(prepared(x)), tensors(model(x)), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@NAMES
def test_the_converted_model_is_close_and_holds_integer_weights(export, name):
    model, converted = converted_model(export, name)
    for x in (X, -X):
        assert close(converted(x), model(x))
        assert not torch.equal(tensors(converted(x))[0], tensors(model(x))[0])
    weights = [value for value in converted.state_dict().values() if value.dim() == 2]
    assert {value.dtype for value in weights} == {torch.int8}
    assert len(weights) == sum("linear" in node for node in MODELS[name][1])
    inside = [graph for path, graph in graphs_of(converted) if path]
    assert all(not list(graph.parameters()) + list(graph.buffers()) for graph in inside)


@NAMES
def test_the_users_model_stays_as_it_was(export, name):
    model = export(MODELS[name][0](), X)
    codes = [graph.code for _path, graph in graphs_of(model)]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [X, -X])
    before = [graph.code for _path, graph in graphs_of(prepared)]
    convert_pt2e(prepared)
    assert [graph.code for _path, graph in graphs_of(model)] == codes
    assert [graph.code for _path, graph in graphs_of(prepared)] == before
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    convert_pt2e(prepared)


@NAMES
def test_it_exports_saves_and_loads_to_the_bit(export, name):
    _model, converted = converted_model(export, name)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(converted, (X,)), buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for x in (X, -X):
        pairs = zip(tensors(loaded(x)), tensors(converted(x)), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@NAMES
def test_each_graph_is_handed_to_a_quantizer_without_a_table(export, name):
    def annotate(nodes):
        for node in nodes.values():
            if node.target is torch.ops.aten.linear.default:
                x, weight, _bias = node.args
                node.meta["quantization_annotation"] = annotation({x: INT8, weight: WEIGHT8}, INT8)

    for made in (ByHand(annotate), ComposableQuantizer([ByHand(annotate)])):
        model = export(MODELS[name][0](), X)
        prepared = prepare_pt2e(model, made)
        calibrate(prepared, [X, -X])
        converted = convert_pt2e(prepared)
        assert close(converted(X), model(X))
        assert any(value.dtype == torch.int8 for value in converted.state_dict().values())


def test_a_branch_that_calibration_never_took_is_named(export):
    prepared = prepare_pt2e(export(Cond(), X), quantizer())
    calibrate(prepared, [X.abs()])
    with pytest.raises(UncalibratedError, match=r"observers have seen no data: .*linear"):
        convert_pt2e(prepared)


def test_batch_norm_inside_a_branch_is_folded(export):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda y: torch.relu(self.norm(self.fc(y))), self.fc, (x,))

    x = torch.randn(5, 4).abs()
    module = Net().eval()
    module.norm.running_mean.normal_()
    module.norm.running_var.uniform_(0.5, 2)
    model = export(module, x)
    explanation = explain(model, quantizer())
    assert [op.state for op in explanation.ops if "batch_norm" in op.op] == ["folded"]
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [x, -x])
    converted = convert_pt2e(prepared)
    for each in (x, -x):
        assert torch.allclose(prepared(each), model(each), atol=1e-5)
        assert close(converted(each), model(each))


def test_a_weight_used_in_both_branches_and_outside(export):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(torch.cond(x.sum() > 0, lambda y: torch.relu(self.fc(y)), lambda y: self.fc(-y), (x,)))

    model = export(Net(), X)
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [X, -X])
    converted = convert_pt2e(prepared)
    assert close(converted(X), model(X))
    assert close(converted(-X), model(-X))
    assert not any(value.dtype == torch.float32 and value.dim() == 2 for value in converted.state_dict().values())
    again = torch.export.export(converted, (X,)).module()  # refuses a float bias that a call is given twice
    assert torch.equal(again(X), converted(X))


def test_a_forward_under_no_grad_is_quantized_whole(export):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        @torch.no_grad()
        def forward(self, x):
            return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

    x = torch.randn(2, 3, 6, 6)
    model = export(Whole(), x)
    found = {op.op: op.row for op in explain(model, quantizer()).ops}
    assert found["aten.conv2d.default"] == found["aten.relu.default"] == "conv_relu"
    assert found["aten.linear.default"] == "linear"
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [x])
    converted = convert_pt2e(prepared)
    assert close(converted(x), model(x))
    assert [path for path, _graph in graphs_of(converted)] == [""]
    assert not any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in converted.graph.nodes)


def test_patterns_fuse_across_the_edge_of_a_no_grad_region(export):
    x = torch.randn(2, 3, 6, 6)
    rows = {op.node: op.row for op in explain(export(NoGrad(), x), quantizer()).ops if op.state == "quantized"}
    assert sorted(rows.values()) == ["conv_relu", "conv_relu", "linear"]


def test_regions_within_regions(export):
    def run(self, x):
        with torch.no_grad():
            y = self.fc(x)
            with torch.enable_grad():
                y = self.fc(torch.sin(y))
            y = self.fc(y)
        return self.fc(y)

    model = export(Apply(run, fc=nn.Linear(4, 4)), X)
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [X])
    converted = convert_pt2e(prepared)
    assert close(converted(X), model(X))
    assert len([op for op in explain(converted).ops if op.state == "quantized"]) == 4
    assert len(converted.state_dict()) == len(set(converted.state_dict()))


def test_a_branch_within_a_region(export):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            with torch.no_grad():
                y = torch.cond(x.sum() > 0, self.a, self.b, (x,))
            return self.a(y)

    model = export(Net(), X)
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [X, -X])
    converted = convert_pt2e(prepared)
    assert close(converted(X), model(X))
    assert close(converted(-X), model(-X))
    run = {id(graph) for _path, graph in graphs_of(converted)}
    assert len(run) == 3
    assert {id(module) for module in converted.modules() if isinstance(module, torch.fx.GraphModule)} == run
    torch.export.export(converted, (X,))


def test_an_autocast_region_is_named_as_what_the_engine_does_not_enter(export):
    def run(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = self.fc(x)
        return self.out(x.float())

    model = export(Apply(run, fc=nn.Linear(4, 4), out=nn.Linear(4, 4)), X)
    explanation = explain(model, quantizer())
    (region,) = [op for op in explanation.ops if op.op == "wrap_with_autocast"]
    assert region.state == "float"
    assert "does not quantize inside wrap_with_autocast" in region.reason
    prepared = prepare_pt2e(model, quantizer())
    calibrate(prepared, [X])
    assert close(convert_pt2e(prepared)(X), model(X))


def test_rules_count_what_is_inside(export):
    model = export(Cond(), X)
    found = {
        op.node: op.state for op in explain(model, quantizer().set_operator_type(torch.ops.aten.add.Tensor, None)).ops
    }
    assert found["false_graph_0/add"] == "float"
    with pytest.warns(UnusedRuleWarning, match="module name 'nowhere'"):
        explain(model, quantizer().set_module_name("nowhere", None))


def test_nothing_to_quantize_in_any_graph(export):
    with pytest.raises(NothingAnnotatedError, match="true_graph_0/linear: no rule covers it"):
        prepare_pt2e(export(Cond(), X), SmallTable())


def test_gradients_flow_through_prepared_control_flow(export):
    for name in MODELS:
        prepared = prepare_pt2e(export(MODELS[name][0](), X), quantizer())
        x = X.clone().requires_grad_()
        result = prepared(x)
        tensors(result)[-1].sum().backward()
        assert x.grad.abs().sum() > 0
