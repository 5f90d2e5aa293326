"""Public defects of annotations: each rebuilt as a quantizer, judged beside the same quantizer without the defect."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial

import torch
from public_case import emulated, enumerated, narrow, on_xnnpack, rebuilt, row, table, unexecuted

from quantizer_sdk import ACT, LoweringError, ProductBiasSpec, Row, SharedQuantizationSpec, Step, ops
from quantizer_sdk.backends.executorch.importing import importing
from quantizer_sdk.backends.xnnpack import get_symmetric_quantization_config
from quantizer_sdk.conformance.mutants.emulated import predicted
from quantizer_sdk.conformance.program import Call, Program, Ref
from quantizer_sdk.conformance.scenario import Scenario

aten = torch.ops.aten
KEY = "quantization_annotation"
CONFIG = get_symmetric_quantization_config(is_per_channel=True)
RELU_AT_END = partial(unexecuted, relu_at_quant_min=True)


# executorch 8138: ExecuTorch's quantizer leaves a matmul float and says nothing.


def peer():
    """Return ExecuTorch's own quantizer with its recipe for static int8."""
    with importing():
        from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as executorch
    return executorch.XNNPACKQuantizer().set_global(executorch.get_symmetric_quantization_config(is_per_channel=True))


Matmul = table(Row("matmul", (Step(ops(aten.matmul.default), (ACT, ACT)),)))
MATMUL = enumerated(unexecuted(Matmul), "L0.C1/aten.matmul/s8.pc/generic/activations")


# executorch 21829: the result of a slice has qparams of its own.

Slice = narrow("relu", "slice")
UnsharedSlice = table(row("relu"), replace(row("slice"), share=False))


def loads_moves_at_one_scale(site, profile, node):
    """Refuse a move between qparams that differ, as XNNPACK does when it loads a program."""
    scales = {scale for term in site.value.exact.terms for scale in term.scales}
    if node.args[0].target is aten.slice.Tensor and scales != {site.requantized.scale}:
        raise LoweringError("failed to create the slice: mismatching quantization parameters of input and output")
    return predicted(site, profile, node)


# executorch 20600: of the three names of one op, the list of those that share lacks one.


def _named(name, *targets, share=True):
    return Row(name, (Step(ops(*targets)),), share=share)


Cat = narrow("relu", "cat")
ForgetsConcat = table(
    row("relu"),
    _named("cat", aten.cat.default, aten.concatenate.default),
    _named("concat", aten.concat.default, share=False),
)


# executorch 12959: an add that wants one scale for its operands ties a relu's result to a tensor with negative numbers.

Residual = narrow("conv_relu", "linear", "add", "move")


class AddSharesItsOperands(Residual):
    def annotate(self, model):
        model = super().annotate(model)
        for node in model.graph.find_nodes(op="call_function", target=aten.add.Tensor):
            first, second = node.args
            node.meta[KEY].input_qspec_map[second] = SharedQuantizationSpec((first, node))
        return model


RESIDUAL = Scenario(
    subject="aten.conv1d+aten.relu",
    scheme="s8.pc",
    data="generic",
    shape="residual",
    program=Program(
        inputs=((2, 9, 4),),
        parameters=((5, 4, 3), (5,), (5, 5), (5,)),
        calls=(
            Call(aten.permute.default, (Ref("x", 0), (0, 2, 1))),
            Call(aten.conv1d.default, (Ref("v", 0), Ref("p", 0), Ref("p", 1), (1,), (0,), (1,), 1)),
            Call(aten.relu.default, (Ref("v", 1),)),
            Call(aten.permute.default, (Ref("v", 2), (0, 2, 1))),
            Call(aten.linear.default, (Ref("v", 3), Ref("p", 2), Ref("p", 3))),
            Call(aten.add.Tensor, (Ref("v", 3), Ref("v", 4))),
        ),
    ),
    length=6,
    checks=("C4",),
)


# executorch 17842 and onnxruntime 19694: a transposed convolution has its scales along the axis of its input channels.

Transposed = narrow("conv_transpose")


def _along_axis_0(step):
    return replace(step, operands=tuple(replace(operand, ch_axis=None) for operand in step.operands))


InputChannels = table(
    replace(row("conv_transpose"), steps=tuple(_along_axis_0(step) for step in row("conv_transpose").steps))
)


# pytorch 140846: a convolution with another reader is fused with the relu behind it.

Conv = narrow("conv_relu", "conv", "relu")


class FusesTwoReaders(Conv):
    def annotate(self, model):
        model = super().annotate(model)
        for node in model.graph.find_nodes(op="call_function", target=aten.relu.default):
            producer = node.args[0]
            producer.meta[KEY].output_qspec = None
            node.meta[KEY].input_qspec_map.pop(producer, None)
        return model


# pytorch 106760: operands of a cat are to share an observer, and each gets its own.


class ObserversFallApart(Cat):
    def prepare_obs_or_fq_callback(self, model, edge_or_node_to_obs_or_fq):
        for point, observer in edge_or_node_to_obs_or_fq.items():
            if isinstance(point, tuple) and point[1].target is aten.cat.default:
                edge_or_node_to_obs_or_fq[point] = copy.deepcopy(observer)


# pytorch 107810: a bias in steps of the weight's scale alone, and a kernel that takes them for steps of sx·sw.


@dataclass(frozen=True, slots=True)
class WeightScaleBias(ProductBiasSpec):
    def derive(self, activation, weight, weight_spec):
        derived = ProductBiasSpec.derive(self, activation, weight, weight_spec)
        product = derived.derive_qparams_fn
        return replace(derived, derive_qparams_fn=lambda observers: product(observers[1:]))


def with_bias(bias):
    """Return the quantizer of linears with this spec for their bias, whatever XNNPACK says of it."""
    quantizer = table(replace(row("linear"), checks=()))
    return lambda: quantizer().set_global(replace(CONFIG, bias=bias))


def adds_bias_codes(site, profile, node):
    """Add the bias's integers to the accumulator, whatever their scale is."""
    first, bias = site.value.exact.terms
    terms = (first, replace(bias, scales=first.scales, which=first.which))
    exact = replace(site.value.exact, terms=terms)
    return predicted(replace(site, value=replace(site.value, exact=exact)), profile, node)


# onnxruntime 11660: behind a relu the result's zero point is 0, on kernels whose relu is the lower end of the range.

ConvRelu = narrow("conv_relu")


def symmetric_results():
    """Return the quantizer of convolutions with a relu whose results have the zero point 0."""
    symmetric = replace(CONFIG.output_activation, qscheme=torch.per_tensor_symmetric, quant_min=-127)
    return ConvRelu().set_global(replace(CONFIG, output_activation=symmetric))


_WRONG_BIAS, _BIAS = with_bias(WeightScaleBias()), with_bias(ProductBiasSpec())
_TRANSPOSED = "L0.C2/aten.conv_transpose2d.input/s8.pc/generic"
_SLICE = "aten.slice/s8.pc/generic/back"

CASES = (
    rebuilt("executorch-8138", "C1", "nothing annotated", MATMUL, unexecuted(peer), unexecuted(Matmul)),
    rebuilt("executorch-21829", "C3", "unshared", f"L0.C3/{_SLICE}", unexecuted(UnsharedSlice), unexecuted(Slice)),
    rebuilt(
        "executorch-21829",
        "D1",
        "lowering",
        f"L4.D1/{_SLICE}",
        emulated(UnsharedSlice, loads_moves_at_one_scale),
        emulated(Slice, loads_moves_at_one_scale),
    ),
    rebuilt("executorch-21829", "D2", "float island", f"L4.D2/{_SLICE}", on_xnnpack(UnsharedSlice), on_xnnpack(Slice)),
    rebuilt(
        "executorch-20600",
        "C3",
        "unshared",
        "L0.C3/aten.concat/s8.pc/generic/two",
        unexecuted(ForgetsConcat),
        unexecuted(Cat),
    ),
    rebuilt("executorch-12959", "C4", "unsound", RESIDUAL, RELU_AT_END(AddSharesItsOperands), RELU_AT_END(Residual)),
    rebuilt(
        "executorch-17842",
        "C2",
        "illegal",
        f"{_TRANSPOSED}/nobias",
        unexecuted(InputChannels),
        unexecuted(Transposed),
    ),
    rebuilt(
        "onnxruntime-19694",
        "C2",
        "InvalidAnnotationError",
        f"{_TRANSPOSED}/3x3s2",
        unexecuted(InputChannels),
        unexecuted(Transposed),
    ),
    rebuilt(
        "pytorch-140846",
        "C4",
        "unsound",
        "L0.C4/aten.conv2d/s8.pc/two_users/3x3",
        unexecuted(FusesTwoReaders),
        unexecuted(Conv),
    ),
    rebuilt(
        "pytorch-106760",
        "C3",
        "unshared",
        "L0.C3/aten.cat/s8.pc/generic/two",
        unexecuted(ObserversFallApart),
        unexecuted(Cat),
    ),
    rebuilt(
        "pytorch-107810",
        "C2",
        "illegal",
        "L0.C2/aten.linear/s8.pc/generic/2d",
        unexecuted(_WRONG_BIAS),
        unexecuted(_BIAS),
    ),
    rebuilt(
        "pytorch-107810",
        "K1",
        "bits",
        "L3.K1/aten.linear/s8.pc/generic/2d",
        emulated(_WRONG_BIAS, adds_bias_codes),
        emulated(_BIAS, adds_bias_codes),
    ),
    rebuilt(
        "onnxruntime-11660",
        "C4",
        "unsound",
        "L0.C4/aten.conv2d+aten.relu/s8.pc/generic/3x3",
        RELU_AT_END(symmetric_results),
        RELU_AT_END(ConvRelu),
    ),
)
