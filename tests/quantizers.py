"""Small quantizers and models for tests."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from quantizer_sdk import (
    ACT,
    BIAS,
    WEIGHT,
    QuantizationAnnotation,
    QuantizationConfig,
    QuantizationSpec,
    Quantizer,
    Row,
    Step,
    TableQuantizer,
    ops,
)

aten = torch.ops.aten
INT8 = QuantizationSpec(torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine)
UINT8 = QuantizationSpec(torch.uint8, quant_min=0, quant_max=255, qscheme=torch.per_tensor_affine)
WEIGHT8 = QuantizationSpec(torch.int8, quant_min=-127, quant_max=127, qscheme=torch.per_channel_symmetric, ch_axis=0)
CONFIG = QuantizationConfig(INT8, INT8, WEIGHT8)


def observing(observer, weight=WEIGHT8, **arguments):
    """Return a config whose activations are watched by observers of this class."""
    constructor = observer.with_args(**arguments)
    spec = dataclasses.replace(INT8, observer_or_fake_quant_ctr=constructor)
    return QuantizationConfig(spec, spec, weight)


CONV = Step(ops(aten.conv2d.default), (ACT, WEIGHT, BIAS))
LINEAR = Step(ops(aten.linear.default), (ACT, WEIGHT, BIAS))
RELU = Step(ops(aten.relu.default))
ADD = Step(ops(aten.add.Tensor), (ACT, ACT))


def only_odd_kernels(match):
    size = match.nodes[0].args[1].meta["val"].shape[-1]
    return None if size % 2 else f"kernel size {size}; the NPU takes odd ones"


class SmallTable(TableQuantizer):
    """A made-up NPU."""

    rows = (
        Row("conv_relu", (CONV, RELU), checks=(only_odd_kernels,)),
        Row("conv", (CONV,), checks=(only_odd_kernels,)),
        Row("linear", (LINEAR,)),
        Row("add", (ADD,)),
        Row("max_pool", (Step(ops(aten.max_pool2d.default)),), share=True),
        Row("cat", (Step(ops(aten.cat.default)),), share=True),
        Row("move", (Step(ops(aten.view.default, aten.permute.default)),), share=True),
    )


class ByHand(Quantizer):
    """Calls a function on the graph's nodes by name to annotate them, as quantizers without a table do."""

    def __init__(self, annotate):
        self._annotate = annotate

    def annotate(self, model):
        self._annotate({node.name: node for node in model.graph.nodes})
        return model


def annotation(inputs=(), output=None, **options):
    return QuantizationAnnotation(dict(inputs), output, **options)


def by_hand(specs):
    """Return a quantizer from {node name: ({operand name: spec}, output spec)}; specs may be functions of the nodes."""

    def annotate(nodes):
        def resolve(spec):
            return spec(nodes) if callable(spec) else spec

        for name, (inputs, output) in specs.items():
            nodes[name].meta["quantization_annotation"] = annotation(
                {nodes[operand]: resolve(spec) for operand, spec in inputs.items()}, resolve(output)
            )

    return ByHand(annotate)


class Apply(nn.Module):
    """Calls a function of itself and its inputs, x and others_0, ...; members are given by name."""

    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        for name, member in members.items():
            if isinstance(member, torch.Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, x, *others):
        return self.function(self, x, *others)


def randomize_norms(module):
    """Give every batch norm statistics and parameters that a mistake would show with."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            if norm.track_running_stats:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.25, 4)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
    return module


def targets(model):
    """Return the last words of the ops that a graph calls, in order: "aten.conv2d.default" is "conv2d"."""
    return [str(node.target).split(".")[1] for node in model.graph.nodes if node.op == "call_function"]
