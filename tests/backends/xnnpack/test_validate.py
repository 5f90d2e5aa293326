"""`validate` holds annotations of any code to the table's rows and checks."""

import dataclasses

import pytest
import torch
from on_codes import ACT, IMAGE, WEIGHT, Run, quantized, run_on_codes
from random_codes import rand
from torch import nn
from torch.nn import functional as F  # noqa: N812

from quantizer_sdk import (
    InvalidAnnotationError,
    LoweringError,
    QuantizationAnnotation,
    QuantizationSpec,
    SharedQuantizationSpec,
    prepare_pt2e,
)
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config, lower


class ByHand(XNNPACKQuantizer):
    """Annotates by a function of a node, as a user may."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def annotate(self, model):
        for node in model.graph.nodes:
            annotation = self.function(node) if node.op == "call_function" else None
            if annotation is not None:
                node.meta["quantization_annotation"] = annotation
        return model


def layer_with(act=ACT, weight=WEIGHT, out=ACT, bias=None):
    def annotate(node):
        if not any(name in node.name for name in ("conv", "linear")):
            return None
        specs = {node.args[0]: act, node.args[1]: weight}
        if bias is not None:
            specs[node.args[2]] = bias
        return QuantizationAnnotation(specs, out, _annotated=True)

    return annotate


def conv_and(name, inner=None):
    def annotate(node):
        if "conv" in node.name:
            return QuantizationAnnotation({node.args[0]: ACT, node.args[1]: WEIGHT}, inner, _annotated=True)
        return QuantizationAnnotation({}, ACT, _annotated=True) if name in node.name else None

    return annotate


def moving(name, shared):
    def annotate(node):
        if name not in node.name:
            return None
        first, *others = node.all_input_nodes
        tied = SharedQuantizationSpec((first, node)) if shared else ACT
        return QuantizationAnnotation({first: ACT, **dict.fromkeys(others, tied)}, tied)

    return annotate


def transposed(**options):
    return Run(lambda m, x: m.conv(x), conv=nn.ConvTranspose2d(4, 4, 3, **options))


CONV = Run(lambda m, x: m.conv(x), conv=nn.Conv2d(4, 4, 3))
BY_HAND = {
    "conv3d": (layer_with(), nn.Conv3d(4, 4, 3), ((1, 4, 5, 5, 5),), "no row of the table is for aten.conv3d.default"),
    "affine": (
        layer_with(weight=dataclasses.replace(WEIGHT, qscheme=torch.per_channel_affine)),
        CONV,
        (IMAGE,),
        "XNNPACK drops the zero point of an affine weight",
    ),
    "uint8": (layer_with(act=QuantizationSpec(torch.uint8)), CONV, (IMAGE,), "input_activation is torch.uint8"),
    "int16": (layer_with(out=QuantizationSpec(torch.int16)), CONV, (IMAGE,), "output_activation is torch.int16"),
    "axis": (layer_with(weight=dataclasses.replace(WEIGHT, ch_axis=1)), CONV, (IMAGE,), "the weight's ch_axis is 1"),
    "transposed_axis": (
        layer_with(),
        transposed(),
        (IMAGE,),
        r"has PerAxis\(axis=0\); the kernel takes PerAxis\(axis=1\)",
    ),
    "transposed_groups": (
        layer_with(weight=dataclasses.replace(WEIGHT, ch_axis=1)),
        transposed(groups=2),
        (IMAGE,),
        r"as conv_transpose: groups=2.*as conv_transpose_grouped: .*the kernel takes PerTensor\(\)",
    ),
    "float_result": (layer_with(out=None), CONV, (IMAGE,), "no spec for output_activation"),
    "integer_bias": (layer_with(bias=QuantizationSpec(torch.int32)), CONV, (IMAGE,), "bias is stored as integers"),
    "run_time_weight": (
        layer_with(weight=get_symmetric_quantization_config().weight),
        Run(lambda _, a, b: F.linear(a, b)),
        ((2, 3), (4, 3)),
        "operand 'weight' is computed at run time",
    ),
    "cat": (
        moving("cat", shared=False),
        Run(lambda _, a, b: torch.cat([a, b])),
        (IMAGE, IMAGE),
        "qparams of their own",
    ),
    "slice": (moving("slice", shared=False), Run(lambda _, a: a[:, 1:]), (IMAGE,), "qparams of their own"),
    "max_pool": (
        moving("max_pool", shared=False),
        Run(lambda _, a: F.max_pool2d(a, 2)),
        (IMAGE,),
        "qparams of their own",
    ),
    "inner_result_read_twice": (
        conv_and("relu"),
        Run(lambda m, x: [y := m.conv(x), y.relu() + y][1], conv=nn.Conv2d(4, 4, 3)),
        (IMAGE,),
        "2 annotated ops.*no spec for output_activation.*no spec for input_activation",
    ),
    "dynamic_per_tensor": (
        layer_with(act=QuantizationSpec(torch.int8, qscheme=torch.per_tensor_affine, is_dynamic=True), out=None),
        Run(lambda m, x: m.linear(x), linear=nn.Linear(4, 3)),
        ((5, 4),),
        r"has PerTensor\(\)",
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_validate_refuses_what_annotations_by_hand_ask_for(name, export):
    function, module, shapes, reason = BY_HAND[name]
    with pytest.raises(InvalidAnnotationError, match=reason):
        prepare_pt2e(export(module, *(rand(*shape) for shape in shapes)), ByHand(function))


ACCEPTED = {
    "conv": (layer_with(), CONV, (IMAGE,)),
    "conv_relu": (conv_and("relu"), Run(lambda m, x: m.conv(x).relu(), conv=nn.Conv2d(4, 4, 3)), (IMAGE,)),
    "transposed": (layer_with(weight=dataclasses.replace(WEIGHT, ch_axis=1)), transposed(), (IMAGE,)),
    "cat": (moving("cat", shared=True), Run(lambda _, a, b: torch.cat([a, b])), (IMAGE, IMAGE)),
    "slice": (moving("slice", shared=True), Run(lambda _, a: a[:, 1:]), (IMAGE,)),
    "max_pool": (moving("max_pool", shared=True), Run(lambda _, a: F.max_pool2d(a, 2)), (IMAGE,)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_validate_accepts_what_kernels_compute(name, export):
    function, module, shapes = ACCEPTED[name]
    inputs = [rand(*shape, seed=index) for index, shape in enumerate(shapes)]
    run_on_codes(quantized(export, module, *inputs, quantizer=ByHand(function)), *inputs)


def test_validate_states_all_violations_with_the_users_lines(export):
    module = Run(lambda m, x: m.second(m.first(x)), first=nn.Conv2d(4, 4, 3), second=nn.Conv2d(4, 4, 3))
    odd = dataclasses.replace(WEIGHT, qscheme=torch.per_channel_affine, ch_axis=1)
    with pytest.raises(InvalidAnnotationError) as caught:
        prepare_pt2e(export(module, rand(*IMAGE)), ByHand(layer_with(act=QuantizationSpec(torch.uint8), weight=odd)))
    message = str(caught.value)
    assert "2 annotated ops" in message
    for words in (
        "input_activation is torch.uint8",
        "zero point of an affine weight",
        "ch_axis is 1",
        "on_codes.py:",
    ):
        assert message.count(words) == 2, message


def test_an_embedding_that_another_quantizer_annotates_is_none_of_xnnpacks_business(export):
    def annotate(node):
        return QuantizationAnnotation({node.args[0]: WEIGHT}, None) if "embedding" in node.name else None

    prepare_pt2e(export(nn.Embedding(9, 4), torch.tensor([1, 2])), ByHand(annotate))


def test_a_clamp_that_requantizes_behind_a_max_pool_is_refused_in_graphs_of_others():
    import torch.ao.quantization.fx._decomposed

    ops = torch.ops.quantized_decomposed

    def rounded(x, scale):
        limits = (scale, 0, -128, 127, torch.int8)
        return ops.dequantize_per_tensor.default(ops.quantize_per_tensor.default(x, *limits), *limits)

    def build(scale):
        module = Run(lambda _, x: rounded(F.max_pool2d(rounded(x, 0.03), 2), 0.03))
        return Run(lambda m, x: rounded(m.pool(x).relu(), scale), pool=module)

    x = rand(*IMAGE)
    same, other = (torch.export.export(build(scale), (x,)).module() for scale in (0.03, 0.02))
    run_on_codes(same, x)
    with pytest.raises(LoweringError, match=r"relu.*changes the qparams behind max_pool2d"):
        lower(other, (x,))
