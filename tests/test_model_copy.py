"""What a copy shares with its original and what it does not."""

import copy

import torch
from quantizers import CONFIG, SmallTable
from torch import nn

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer
from quantizer_sdk.model_copy import copy_model

X = torch.randn(2, 4)


class Two(nn.Module):
    """Holds one layer under two names, and runs a part of itself without gradients."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.rest = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        with torch.no_grad():
            x = self.first(x)
        return self.rest(self.again(x))


def test_tensors_are_shared_and_the_rest_is_its_own(export):
    model = export(Two(), X)
    result = copy_model(model)
    assert {id(t) for t in result.state_dict(keep_vars=True).values()} == {
        id(t) for t in model.state_dict(keep_vars=True).values()
    }
    assert result.graph is not model.graph
    kept = {id(module) for module in model.modules()}
    assert not any(id(module) in kept for module in result.modules())


def test_the_copy_compiles_itself_when_first_called(export):
    model = export(nn.Linear(4, 4), X)
    result = copy_model(model)
    assert torch.equal(result(X), model(X))
    assert torch.equal(result(X), model(X))  # by its own code now
    assert "linear" in result.code


def test_a_change_to_the_copys_graph_counts_even_before_the_first_call(export):
    model = export(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), X)
    result = copy_model(model)
    (relu,) = [node for node in result.graph.nodes if node.target is torch.ops.aten.relu.default]
    relu.replace_all_uses_with(relu.args[0])
    result.graph.erase_node(relu)
    assert torch.equal(torch.relu(result(X)), model(X))
    assert not torch.equal(result(X), model(X))


def test_copies_compile_apart_from_each_other(export):
    one, other = copy_model(export(nn.Linear(4, 4), X)), copy_model(export(nn.ReLU(), X))
    assert torch.equal(other(X), torch.relu(X))
    assert not torch.equal(one(X), other(X))


def test_submodules_of_regions_are_copied_with_their_graphs(export):
    model = export(Two(), X)
    regions = [module for module in model.modules() if isinstance(module, torch.fx.GraphModule)]
    result = copy_model(model)
    copies = [module for module in result.modules() if isinstance(module, torch.fx.GraphModule)]
    assert len(copies) == len(regions) > 1
    assert all(one.graph is not other.graph for one, other in zip(regions, copies, strict=True))
    assert torch.equal(result(X), model(X))


def test_hooks_go_along(export):
    model = export(nn.Linear(4, 4), X)
    seen = []
    model.register_forward_pre_hook(lambda _module, args: seen.append(args[0].shape))
    prepared = prepare_pt2e(model, SmallTable().set_global(CONFIG))
    calibrate(prepared, [X])
    convert_pt2e(prepared)(X)
    assert seen == [X.shape, X.shape]


def test_a_deepcopy_of_a_prepared_model_calibrates_by_itself(export):
    model = export(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), X)
    prepared = prepare_pt2e(model, XNNPACKQuantizer())
    other = copy.deepcopy(prepared)
    calibrate(prepared, [X])
    calibrate(other, [100 * X])
    near, far = convert_pt2e(prepared), convert_pt2e(other)

    def first_scale(converted):
        return next(node.args[1] for node in converted.graph.nodes if "quantize_per_tensor" in str(node.target))

    assert first_scale(far) > 50 * first_scale(near)
    # Its biases follow the scales of its own activations, not of the original's.
    assert (far(100 * X) - model(100 * X)).abs().max() < 0.05 * model(100 * X).abs().max()
