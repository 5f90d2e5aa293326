"""What takes single places of an axis is a slice and a reshape, to the bit."""

import pytest
import torch
from quantizers import Apply, targets
from torch.export import Dim

from quantizer_sdk.model_copy import copy_model
from quantizer_sdk.passes.selects_as_slices import selects_as_slices
from quantizer_sdk.verify import Stage, verify


def rewritten(model):
    result = copy_model(model)
    selects_as_slices(result)
    result.recompile()
    verify(result, Stage.EXPORTED, after="selects_as_slices")
    return result


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x[:, 0],
        lambda _, x: x[:, -1] + x.select(-2, 1).sum(),
        lambda _, x: x.unbind(0)[1],
        lambda _, x: torch.stack(x.unbind(-1)[::-1]),
    ],
)
def test_values_are_the_same(export, function):
    x = torch.randn(2, 3, 4)
    model = export(Apply(function), x)
    result = rewritten(model)
    assert not {"select", "unbind"} & set(targets(result))
    assert "slice" in targets(result)
    assert torch.equal(result(x), model(x))


def test_another_axis_may_be_dynamic(export):
    model = export(Apply(lambda _, x: x[:, 2] * 2), torch.randn(2, 3, 4), dynamic_shapes=({0: Dim("batch", max=8)},))
    result = rewritten(model)
    assert "select" not in targets(result)
    for batch in (1, 5):
        x = torch.randn(batch, 3, 4)
        assert torch.equal(result(x), model(x))


def test_places_of_a_dynamic_axis_stay(export):
    model = export(Apply(lambda _, x: x[0] * 2), torch.randn(2, 3, 4), dynamic_shapes=({0: Dim("batch", max=8)},))
    assert "select" in targets(rewritten(model))
