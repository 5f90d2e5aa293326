"""What is no quantizer, annotation, spec or observer of any library is refused by name, before any calibration."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torchao.quantization.pt2e as torchao
from torch import nn
from torchao.quantization.pt2e import MappingType, PerTensor
from torchao.quantization.pt2e import quantizer as theirs
from torchao.quantization.pt2e._affine_quantization import AffineQuantizedMinMaxObserver
from torchao_quantizers import KEY, Foreign, Net, OfTorchao, on_input, spec

import quantizer_sdk as q
from quantizer_sdk.qdq import is_quantize

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def exported(export):
    return export(Net(), X)


@pytest.mark.parametrize("use", [q.prepare_pt2e, q.prepare_qat_pt2e, q.explain])
def test_what_is_no_quantizer(exported, use):
    with pytest.raises(q.NotAQuantizerError, match=r"is a dict, which has no method annotate\(model\)"):
        use(exported, {})
    with pytest.raises(
        q.NotAQuantizerError, match=r"is the class OfTorchao; pass an object of it, such as OfTorchao\(\)"
    ):
        use(exported, OfTorchao)


def test_one_of_several():
    with pytest.raises(q.NotAQuantizerError, match="is a str"):
        q.ComposableQuantizer([OfTorchao(None), "xnnpack"])


def test_what_is_no_annotation(exported):
    def annotate(nodes):
        nodes["linear"].meta[KEY] = SimpleNamespace(input_qspec_map={})

    with pytest.raises(
        q.InvalidAnnotationError, match=r"linear .*carries a SimpleNamespace.*which has no output_qspec"
    ):
        q.prepare_pt2e(exported, Foreign(annotate))


@pytest.mark.parametrize("make", [q.QuantizationAnnotation, theirs.QuantizationAnnotation])
def test_what_is_no_spec(exported, make):
    with pytest.raises(q.InvalidAnnotationError, match=r"the spec on x -> linear is a str \('int8'\); expected one of"):
        q.prepare_pt2e(exported, Foreign(on_input("int8", make)))


def test_an_operand_that_is_no_node(exported):
    def annotate(nodes):
        nodes["linear"].meta[KEY] = theirs.QuantizationAnnotation({"x": spec()}, None)

    with pytest.raises(q.InvalidAnnotationError, match="annotated for an operand 'x', which it does not have"):
        q.prepare_pt2e(exported, OfTorchao(annotate))


def test_a_range_that_its_type_has_not(exported):
    with pytest.raises(
        q.InvalidSpecError, match=r"torchao\..*QuantizationSpec on x -> linear: .*-128\.\.300 does not fit"
    ):
        q.prepare_pt2e(exported, OfTorchao(on_input(spec(high=300))))


def test_a_field_that_no_spec_has(exported):
    @dataclass(frozen=True)
    class Blockwise(theirs.QuantizationSpec):
        block_size: tuple = (1, 32)

    given = Blockwise(torch.int8, torchao.MinMaxObserver)
    with pytest.raises(q.UnsupportedError, match=r"Blockwise on x -> linear has the fields block_size.*with_args"):
        q.prepare_pt2e(exported, OfTorchao(on_input(given)))


def test_an_observer_that_writes_ops_of_its_own(exported):
    affine = AffineQuantizedMinMaxObserver.with_args(
        mapping_type=MappingType.ASYMMETRIC, target_dtype=torch.int8, granularity=PerTensor()
    )
    with pytest.raises(
        q.UnsupportedError, match=r"AffineQuantizedMinMaxObserver writes ops of its own, by convert\(\)"
    ):
        q.prepare_pt2e(exported, OfTorchao(on_input(spec(affine))))


class Observer(nn.Module):
    """Has what an observer needs, as far as it is told."""

    def __init__(self, **attributes):
        super().__init__()
        self.__dict__.update(attributes)

    @classmethod
    def with_args(cls, **_fields):
        return cls

    def forward(self, x):
        return x

    def calculate_qparams(self):
        return torch.tensor([1.0]), torch.tensor([0])


class OfNoType(Observer):
    pass


class OfAnOldType(Observer):
    def __init__(self):
        super().__init__(dtype=torch.quint8, quant_min=0, quant_max=255)


class OfChannels(Observer):
    def __init__(self):
        super().__init__(dtype=torch.int8, quant_min=-127, qscheme=torch.per_channel_symmetric)


class OfWhatItTakes(Observer):
    def __init__(self):
        super().__init__(dtype=torch.int8, quant_min=-128, quant_max=127)


@pytest.mark.parametrize(
    ("observer", "reason"),
    [
        (OfNoType, "OfNoType has no dtype; conversion reads"),
        (OfAnOldType, r"OfAnOldType has dtype torch\.quint8; types of codes are torch\.int8"),
        (OfChannels, "OfChannels has no quant_max and no ch_axis; conversion reads"),
    ],
)
def test_an_observer_that_lacks_what_conversion_reads(exported, observer, reason):
    with pytest.raises(q.UnsupportedError, match=rf"\[x -> linear\].*{reason}"):
        q.prepare_pt2e(exported, OfTorchao(on_input(spec(observer))))


def test_the_least_that_an_observer_needs(exported, quantize):
    model = quantize(exported, OfTorchao(on_input(spec(OfWhatItTakes))), X)
    (node,) = [node for node in model.graph.nodes if is_quantize(node)]
    assert node.args[1:] == (1.0, 0, -128, 127, torch.int8)


def test_an_observer_that_rounds_nothing_while_training(exported):
    with pytest.raises(q.UnsupportedError, match=r"\[x -> linear\].*MinMaxObserver observes and rounds nothing"):
        q.prepare_qat_pt2e(exported, OfTorchao(on_input(spec())))
    fake = torchao.FakeQuantize.with_args(observer=torchao.MovingAverageMinMaxObserver)
    model = q.prepare_qat_pt2e(exported, OfTorchao(on_input(spec(fake))))
    assert not torch.equal(model(X), exported(X))
