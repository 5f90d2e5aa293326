"""smooth_quant: the float model is bit for bit the same, and outliers of activations have gone into weights."""

import pytest
import torch
from torch import nn

from quantizer_sdk import InvalidSpecError, NotExportedError, smooth_quant

LINEAR = torch.ops.aten.linear.default
OUTLIERS = torch.ones(16).index_fill(0, torch.tensor([3, 7]), 64.0)


class Normed(nn.Module):
    """Two layers behind a layer norm with outlier channels; with `residual`, something else reads the norm too."""

    def __init__(self, *, residual):
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(16), nn.Linear(16, 8), nn.Linear(16, 8)
        self.residual = residual
        with torch.no_grad():
            self.norm.weight.mul_(OUTLIERS)

    def forward(self, x):
        x = self.norm(x)
        y = torch.relu(self.first(x)) + self.second(x)
        return (y, x) if self.residual else y


def exported(model, x):
    return torch.export.export(model.eval(), (x,)).module()


def operand_spread(model, x):
    """The largest magnitude of a channel that layers read, over the median one."""

    class Watch(torch.fx.Interpreter):
        def call_function(self, target, args, kwargs):
            if target is LINEAR:
                magnitude = args[0].detach().abs().amax(0)
                spreads.append(float(magnitude.max() / magnitude.median()))
            return super().call_function(target, args, kwargs)

    spreads = []
    Watch(model).run(x)
    return max(spreads)


@pytest.mark.parametrize("residual", [False, True])
def test_the_model_computes_the_same_bits_and_outliers_are_smaller(residual):
    torch.manual_seed(0)
    x = torch.randn(32, 16)
    model = exported(Normed(residual=residual), x)
    code = str(model.graph)
    smoothed = smooth_quant(model, [x])
    assert str(model.graph) == code
    for found, expected in zip(_tuple(smoothed(x)), _tuple(model(x)), strict=True):
        assert torch.equal(found, expected)
    assert operand_spread(smoothed, x) < 0.4 * operand_spread(model, x)
    multiplications = smoothed.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    assert len(multiplications) == residual  # without another reader the norm's own weights are divided


def _tuple(result):
    return result if isinstance(result, tuple) else (result,)


def test_weights_replace_those_that_they_were_made_of():
    x = torch.randn(8, 16)
    smoothed = smooth_quant(exported(Normed(residual=False), x), [x])
    assert sorted(smoothed.state_dict()) == [
        *("first.bias", "first.weight_smoothed", "norm.bias_smoothed", "norm.weight_smoothed"),
        *("second.bias", "second.weight_smoothed"),
    ]


def test_alpha_says_how_much_goes_into_the_weights():
    torch.manual_seed(0)
    x = torch.randn(32, 16)
    model = exported(Normed(residual=True), x)
    spreads = [operand_spread(smooth_quant(model, [x], alpha=alpha), x) for alpha in (0.5, 0.75, 1.0)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 4


def test_channels_without_a_signal_keep_their_weights():
    x = torch.randn(8, 16).index_fill(1, torch.tensor([2]), 0.0)
    model = exported(nn.Linear(16, 4), x)
    smoothed = smooth_quant(model, [x])
    (weight,) = (value for name, value in smoothed.state_dict().items() if "weight" in name)
    assert torch.equal(weight[:, 2], model.state_dict()["weight"][:, 2])
    assert torch.isfinite(weight).all()


def test_a_layer_that_is_called_twice_has_a_weight_for_each_operand():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x):
            return self.layer(torch.tanh(self.layer(x)))

    x = torch.randn(8, 16) * OUTLIERS
    model = exported(Twice(), x)
    assert torch.equal(smooth_quant(model, [x])(x), model(x))


def test_nothing_is_changed_where_there_is_nothing_to_smooth():
    x = torch.randn(2, 3, 8, 8)
    model = exported(nn.Conv2d(3, 4, 3), x)
    assert str(smooth_quant(model, [x]).graph) == str(model.graph)


def test_mistakes_are_named():
    x = torch.randn(2, 16)
    model = exported(nn.Linear(16, 4), x)
    with pytest.raises(InvalidSpecError, match="alpha=2"):
        smooth_quant(model, [x], alpha=2)
    with pytest.raises(NotExportedError, match="Linear"):
        smooth_quant(nn.Linear(16, 4), [x])
