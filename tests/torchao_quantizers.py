"""Quantizers written against torchao's classes, or against none, for tests."""

from __future__ import annotations

import torch
import torchao.quantization.pt2e as torchao
import torchao.quantization.pt2e.quantizer as theirs
from torch import nn

KEY = "quantization_annotation"


class Foreign:
    """Has one method of a quantizer, and no base class."""

    def __init__(self, annotate):
        self._annotate = annotate

    def annotate(self, model):
        self._annotate({node.name: node for node in model.graph.nodes})


class OfTorchao(theirs.Quantizer):
    def __init__(self, annotate):
        self._annotate = annotate

    def annotate(self, model):
        self._annotate({node.name: node for node in model.graph.nodes})
        return model

    def validate(self, model):
        pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return torch.sigmoid(self.fc(x))


def spec(
    observer=torchao.MinMaxObserver, dtype=torch.int8, low=-128, high=127, scheme=torch.per_tensor_affine, **fields
):
    return theirs.QuantizationSpec(dtype, observer, low, high, scheme, **fields)


def on_input(given, make=theirs.QuantizationAnnotation):
    """Return an annotate function that puts one spec on the operand of the linear layer."""

    def annotate(nodes):
        nodes["linear"].meta[KEY] = make({nodes["x"]: given}, None)

    return annotate
