"""How many elements share a scale: the blocks, and each granularity's way to its ops and back."""

import pytest
import torch
from quantizers import by_hand
from torch import nn

from quantizer_sdk import QuantizationSpec, UnsupportedError, convert_pt2e, prepare_pt2e
from quantizer_sdk.granularity import grid_of, to_lanes
from quantizer_sdk.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerAxis,
    PerBlock,
    PerGroup,
    PerRow,
    PerTensor,
    PerToken,
)

OBSERVERS = [MinMaxObserver, MovingAverageMinMaxObserver, HistogramObserver]


@pytest.mark.parametrize(
    ("granularity", "block", "grid"),
    [
        (PerTensor(), (4, 6, 8), (1, 1, 1)),
        (PerAxis(0), (1, 6, 8), (4, 1, 1)),
        (PerAxis(-1), (4, 6, 1), (1, 1, 8)),
        (PerRow(-1), (1, 1, 8), (4, 6, 1)),
        (PerRow(0), (4, 1, 1), (1, 6, 8)),
        (PerToken(), (1, 1, 8), (4, 6, 1)),
        (PerGroup(2), (1, 1, 2), (4, 6, 4)),
        (PerBlock((3, 4)), (1, 3, 4), (4, 2, 2)),
        (PerBlock((-1, 3, -1)), (4, 3, 8), (1, 2, 1)),
    ],
)
def test_blocks_and_the_elements_of_each(granularity, block, grid):
    shape = (4, 6, 8)
    assert granularity.block_of(shape) == block
    assert grid_of(block, shape) == grid
    x = torch.arange(4 * 6 * 8).reshape(shape)
    lanes = to_lanes(x, block)
    assert lanes.shape == (torch.tensor(grid).prod(), torch.tensor(block).prod())
    for number, place in enumerate(torch.cartesian_prod(*(torch.arange(count) for count in grid)).tolist()):
        part = x[tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, block, strict=True))]
        assert sorted(lanes[number].tolist()) == sorted(part.reshape(-1).tolist())


def scale_by_block(weight, granularity):
    """The largest magnitude of each block over the largest code, 7, spread over the block again."""
    block = granularity.block_of(weight.shape)
    split = weight.reshape([n for size, part in zip(weight.shape, block, strict=True) for n in (size // part, part)])
    axes = list(range(1, split.dim(), 2))
    largest = split.abs().amax(axes, keepdim=True)
    return (largest / 7).expand_as(split).reshape(weight.shape)


LINEAR = (lambda: nn.Linear(8, 4, bias=False), torch.randn(2, 8))
CONV = (lambda: nn.Conv2d(4, 6, 3, bias=False), torch.randn(1, 4, 5, 5))
FORMS = {
    "tensor": (LINEAR, PerTensor(), "per_tensor.default", None),
    "axis_0": (LINEAR, PerAxis(0), "per_channel.default", (4,)),
    "axis_1": (LINEAR, PerAxis(1), "per_channel.default", (8,)),
    "axis_last": (LINEAR, PerAxis(-1), "per_channel.default", (8,)),
    "row": (LINEAR, PerRow(), "per_channel.default", (4,)),
    "column": (LINEAR, PerRow(0), "per_channel.default", (8,)),
    "group": (LINEAR, PerGroup(4), "per_channel_group.default", (4, 2)),
    "group_of_all": (LINEAR, PerGroup(8), "per_channel.default", (4,)),
    "block_like_group": (LINEAR, PerBlock((1, 2)), "per_channel_group.default", (4, 4)),
    "block": (LINEAR, PerBlock((2, 4)), "per_block.default", (2, 2)),
    "single_elements": (LINEAR, PerGroup(1), "per_block.default", (4, 8)),
    "conv_axis_3": (CONV, PerAxis(3), "per_channel.default", (3,)),
    "conv_group": (CONV, PerBlock((1, 2, -1, -1)), "per_block.default", (6, 2, 1, 1)),
    "conv_row": (CONV, PerRow(), "per_block.default", (6, 4, 3, 1)),
}


@pytest.mark.parametrize("kind", OBSERVERS[:2])
@pytest.mark.parametrize("form", FORMS)
def test_a_weight_of_4_bits_in_each_granularity(export, form, kind):
    (make, x), granularity, op, shape = FORMS[form]
    model = export(make(), x)
    name = "linear" if isinstance(make(), nn.Linear) else "conv2d"
    observer = kind.with_args(granularity=granularity)
    spec = QuantizationSpec(torch.int8, observer, -7, 7, torch.per_tensor_symmetric)
    converted = convert_pt2e(prepare_pt2e(model, by_hand({name: ({"weight": spec}, None)})))
    (dequantize,) = [node for node in converted.graph.nodes if "dequantize" in str(node.target)]
    assert str(dequantize.target).endswith(op)
    codes, weight = converted.state_dict()["weight"], model.state_dict()["weight"]
    assert codes.dtype == torch.int8
    if shape is not None:
        assert converted.state_dict()["weight_scale"].shape == shape
    scale = scale_by_block(weight, granularity)
    assert torch.equal(codes.to(torch.float32), torch.round(weight / scale))
    function = nn.functional.linear if name == "linear" else nn.functional.conv2d
    assert torch.allclose(converted(x), function(x, codes * scale), atol=1e-5)


@pytest.mark.parametrize("kind", OBSERVERS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_an_activation_per_channel_on_any_axis(export, quantize, kind, axis):
    x = torch.randn(3, 5) * torch.tensor([1.0, 10, 100, 1000, 10000])
    spec = QuantizationSpec(torch.int8, kind.with_args(granularity=PerAxis(axis)), qscheme=torch.per_tensor_affine)
    converted = quantize(export(nn.ReLU(), x), by_hand({"relu": ({"input_1": spec}, None)}), x)
    (codes,) = [node for node in converted.graph.nodes if ".quantize_" in str(node.target)]
    assert codes.args[3] == axis % 2
    lanes = x.movedim(axis, 0)
    error = (converted(x) - torch.relu(x)).movedim(axis, 0).abs()
    width = lanes.amax(1).clamp(min=0) - lanes.amin(1).clamp(max=0)
    assert bool((error <= width[:, None] / 255).all())


def test_a_static_scale_for_each_token_is_refused_by_name(export):
    x = torch.randn(3, 5)
    spec = QuantizationSpec(torch.int8, MinMaxObserver.with_args(granularity=PerToken()))
    prepared = prepare_pt2e(export(nn.ReLU(), x), by_hand({"relu": ({"input_1": spec}, None)}))
    prepared(x)
    with pytest.raises(UnsupportedError, match=r"input_1 .*PerToken\(\) needs is_dynamic=True"):
        convert_pt2e(prepared)


def test_points_of_differing_granularity_stay_apart(export):
    x = torch.randn(4, 6)
    specs = [
        QuantizationSpec(
            torch.int8, MinMaxObserver.with_args(granularity=PerAxis(axis)), qscheme=torch.per_tensor_affine
        )
        for axis in (0, 1)
    ]
    module = nn.Module()
    module.forward = lambda x: (torch.relu(x), torch.sin(x))
    prepared = prepare_pt2e(
        export(module, x), by_hand({"relu": ({"x": specs[0]}, None), "sin": ({"x": specs[1]}, None)})
    )
    assert {observer.ch_axis for observer in prepared.children() if hasattr(observer, "ch_axis")} == {0, 1}
