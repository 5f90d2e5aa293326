"""Public defects that show on the way from model to q/dq graph: by other exports, shared modules, dropped ops."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from public_case import PublicCase, enumerated, narrow, outcome_of, rebuilt, unexecuted
from public_contract_cases import KEY, Cat, ConvRelu, ForgetsConcat
from torch import nn
from torchao.quantization.pt2e import quantize_pt2e as their_engine
from torchao.quantization.pt2e import quantizer as theirs
from torchao_quantizers import spec

from quantizer_sdk.backends.executorch.importing import quiet
from quantizer_sdk.conformance.bench import Bench, export
from quantizer_sdk.conformance.checks_contract import claimed_is_quantized
from quantizer_sdk.conformance.outcome import Status

aten = torch.ops.aten


# executorch 22069: torchao's engine hands a quantizer the outer graph, where a forward without gradients is one op.


class LinearByTorchao(theirs.Quantizer):
    """Annotates linears with torchao's classes, which both engines take."""

    def annotate(self, model):
        for node in model.graph.find_nodes(op="call_function", target=aten.linear.default):
            x, weight, _bias = node.args
            symmetric = spec(low=-127, scheme=torch.per_tensor_symmetric)
            node.meta[KEY] = theirs.QuantizationAnnotation({x: spec(), weight: symmetric}, spec(), _annotated=True)
        return model

    def validate(self, model):
        pass


class WithoutGradients(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs):
        with torch.no_grad():
            return self.inner(*inputs)


def quantize_by_torchao(model, quantizer, batches, _data):
    """Quantize on torchao's engine, as `quantizer_sdk.conformance.bench.quantize` does on ours."""
    with quiet(), torch.no_grad():
        prepared = their_engine.prepare_pt2e(copy.deepcopy(model), quantizer)
        for batch in batches:
            prepared(*batch)
        return their_engine.convert_pt2e(prepared)


def on_torchao(look):
    """Look with torchao's engine in the place of ours."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("bench", "exports"):
            patch.setattr(f"quantizer_sdk.conformance.{module}.quantize", quantize_by_torchao)
        return look()


def claims_without_gradients():
    """Look with C1 at a linear whose whole forward runs without gradients."""
    bench = Bench(enumerated(_LINEAR, "L0.C1/aten.linear/s8.pc/generic/2d"), _BY_TORCHAO, 0)
    bench.exported = export(WithoutGradients(bench.module), bench.batches[0])
    return claimed_is_quantized(bench)


# ao 4480: all calls of one module are taken for one pattern, which has one result.

Linear = narrow("linear", "linear_relu")


class OnePatternAModule(Linear):
    def annotate(self, model):
        linears = model.graph.find_nodes(op="call_function", target=aten.linear.default)
        owners = [next(reversed(node.meta["nn_module_stack"].values()))[0] for node in linears]
        if len(set(owners)) < len(owners):
            raise ValueError("a linear with more than one output node")
        return super().annotate(model)


# onnxruntime 9425: relus are taken out of the model, for the range of what is before them is to do their work.


class DropsRelu(narrow("conv_relu", "conv")):
    def transform_for_annotation(self, model):
        model = super().transform_for_annotation(model)
        for node in model.graph.find_nodes(op="call_function", target=aten.relu.default):
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)
        return model


_LINEAR, _BY_TORCHAO = unexecuted(narrow("linear")), unexecuted(LinearByTorchao)
_NO_GRAD = partial(outcome_of, _BY_TORCHAO, enumerated(_LINEAR, "L1.E2/aten.linear/s8.pc/no_grad/2d"))
_CONCATENATE = "L0.C3/aten.concatenate/s8.pc/generic/two"

CASES = (
    PublicCase(
        number="executorch-22069",
        check="E2",
        signature="structure",
        defective=partial(on_torchao, _NO_GRAD),
        healthy=_NO_GRAD,
    ),
    PublicCase(
        number="executorch-22069",
        check="C1",
        signature="float",
        defective=partial(on_torchao, claims_without_gradients),
        healthy=claims_without_gradients,
    ),
    rebuilt(
        "executorch-20999",
        "E2",
        "numbers",
        enumerated(unexecuted(Cat), _CONCATENATE, data="alias", checks=("E2",)),
        unexecuted(ForgetsConcat),
        unexecuted(Cat),
    ),
    rebuilt(
        "ao-4480",
        "E2",
        "ValueError",
        "L1.E2/aten.linear+aten.relu/s8.pc/called_twice/2d",
        unexecuted(OnePatternAModule),
        unexecuted(Linear),
        status=Status.ERROR,
    ),
    rebuilt(
        "onnxruntime-9425",
        "R2",
        "deficit",
        "L2.R2/aten.conv2d+aten.relu/s8.pc/generic/3x3",
        unexecuted(DropsRelu),
        unexecuted(ConvRelu),
    ),
)
