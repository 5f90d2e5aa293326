"""Two models, and reading what an annotation or a report says of each node."""

from torch import nn

from quantizer_sdk import explain
from quantizer_sdk.quantize_pt2e import annotate

KEY = "quantization_annotation"


class CustomConv(nn.Conv2d):
    """A subclass, as those of EfficientNet-Lite are."""


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x)) + x


def states(model, quantizer):
    """Return {node: its state} as explain() tells it."""
    return {op.node: op.state for op in explain(model, quantizer).ops}


def rows(model, quantizer):
    return {op.node: op.row for op in explain(model, quantizer).ops}


def reason(model, quantizer, node):
    return next(op.reason for op in explain(model, quantizer).ops if op.node == node)


def specs(model, quantizer):
    """Return {node: its annotation} of an annotated copy."""
    return {node.name: node.meta[KEY] for node in annotate(model, quantizer).graph.nodes if KEY in node.meta}


def input_dtypes(model, quantizer):
    """Return {node: the integer type of its first activation}."""
    found = {}
    for name, note in specs(model, quantizer).items():
        for producer, spec in note.input_qspec_map.items():
            if producer.op != "get_attr":
                found[name] = spec.dtype
    return found
