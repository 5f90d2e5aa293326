"""Layers inside cond, map, scan and while_loop, and what the two models do there."""

import pytest
import torch
from functorch.experimental.control_flow import map as control_map
from quantizers import CONFIG, SmallTable
from test_control_flow import Cond, Nested, NoGrad, Scan, While
from torch import nn

from quantizer_sdk import calibrate, compare, prepare_pt2e


def quantized(export, net, batches):
    model = export(net, batches[0])
    prepared = prepare_pt2e(model, SmallTable().set_global(CONFIG))
    calibrate(prepared, batches)
    return model, prepared


BATCHES = [
    torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) + shift for seed, shift in ((0, 1), (1, -1))
]


@pytest.mark.parametrize(
    ("net", "layers"),
    [
        (Cond, {"true_graph_0/linear", "false_graph_0/linear", "false_graph_0/add"}),
        (Scan, {"scan_combine_graph_0/linear", "scan_combine_graph_0/add"}),
        (While, {"while_loop_body_graph_0/linear"}),
        (Nested, {"body_graph_0.true_graph_0/linear", "body_graph_0.false_graph_0/linear"}),
    ],
)
def test_layers_inside_are_named_by_path(export, net, layers):
    model, prepared = quantized(export, net(), BATCHES)
    found = compare(model, prepared, BATCHES)
    rounded = {layer.node: layer for layer in found.layers if layer.rounded and layer.op != "placeholder"}
    assert set(rounded) == layers
    assert all(25 < layer.sqnr < 70 and 25 < layer.own_sqnr < 70 for layer in rounded.values())
    assert not found.notes


def test_a_layer_that_is_mapped_has_the_figures_of_the_layer_itself(export):
    torch.manual_seed(0)
    fc = nn.Linear(4, 4)

    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = fc

        def forward(self, x):
            return control_map(self.fc, x)

    class Whole(Mapped):
        def forward(self, x):
            return self.fc(x)

    inside, whole = (compare(*quantized(export, net(), BATCHES), BATCHES) for net in (Mapped, Whole))
    for one, other in zip(inside.layers, whole.layers, strict=True):
        assert one.node.removeprefix("body_graph_0/") == other.node
        assert (one.sqnr, one.own_sqnr) == pytest.approx((other.sqnr, other.own_sqnr), abs=1e-4)
        assert one.max_error_lsb == pytest.approx(other.max_error_lsb, rel=1e-4)
    assert inside.outputs[0].sqnr == pytest.approx(whole.outputs[0].sqnr, abs=1e-4)


class Parting(nn.Module):
    """Its branch hangs on a value that is rounded to zero."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        y = self.a(x)
        return torch.cond(y.abs().sum() > 0, self.b, self.c, (y,))


def test_where_the_models_part_the_own_error_is_still_known(export):
    model, prepared = quantized(export, Parting(), [*BATCHES, torch.zeros(6, 4)])
    with torch.no_grad():
        prepared.get_submodule("a").bias.zero_()  # of both: they share it
    calibrate(prepared, [torch.zeros(6, 4)])
    for node in prepared.graph.nodes:
        if node.op == "call_module" and node.args and node.args[0].name == "linear":
            observer = prepared.get_submodule(node.target)
            observer.min_val, observer.max_val = observer.min_val * 1e4, observer.max_val * 1e4
    found = compare(model, prepared, BATCHES)
    assert "the models went different ways in cond" in found.notes[0]
    assert "true_graph_0/linear" not in {layer.node for layer in found.layers}
    assert found.ranked()[0].node == "linear"


def test_a_region_without_gradients_is_seen_through(export):
    images = [torch.randn(2, 3, 6, 6) for _ in range(2)]
    model, prepared = quantized(export, NoGrad(), images)
    layers = {layer.node: layer for layer in compare(model, prepared, images).layers}
    assert {"conv2d", "linear"} <= set(layers)
    assert layers["conv2d"].members == ("conv2d", "relu")
    assert 25 < layers["conv2d"].own_sqnr < 70
