"""Embeddings gather codes: the same numbers, without a float table."""

import pytest
import torch
from torch import nn

from quantizer_sdk import convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.qdq_forms import gather_codes
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config

OPS = torch.ops.quantized_decomposed


def quantized(module, indices, **config):
    exported = torch.export.export(module.eval(), (indices,)).module()
    quantizer = X86Quantizer().set_global(get_default_x86_quantization_config(is_weight_only=True, **config))
    return convert_pt2e(prepare_pt2e(exported, quantizer))


@pytest.mark.parametrize("is_per_channel", [True, False])
def test_codes_are_looked_up_and_give_the_same_numbers(is_per_channel):
    indices = torch.tensor([[0, 3, 3], [9, 1, 0]])
    model = quantized(nn.Embedding(10, 4, padding_idx=3), indices, is_per_channel=is_per_channel)
    expected = model(indices)
    gather_codes(model)
    (lookup,) = model.graph.find_nodes(op="call_function", target=torch.ops.aten.embedding.default)
    assert lookup.meta["val"].dtype == torch.int8
    assert torch.equal(model(indices), expected)
    tables = [node for node in model.graph.nodes if tuple(getattr(node.meta.get("val"), "shape", ())) == (10, 4)]
    assert [node.meta["val"].dtype for node in tables] == [torch.int8]


def test_zero_points_are_taken_off():
    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("codes", torch.randint(0, 256, (6, 4), dtype=torch.uint8))
            self.register_buffer("scales", torch.rand(6) + 0.1)
            self.register_buffer("zeros", torch.tensor([0, 255, 3, 128, 7, 99]))

        def forward(self, indices):
            table = OPS.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, 0, 255, torch.uint8)
            return nn.functional.embedding(indices, table)

    indices = torch.tensor([5, 1, 1, 0, 4])
    model = torch.export.export(Affine(), (indices,)).module()
    expected = model(indices)
    gather_codes(model)
    assert torch.equal(model(indices), expected)
    assert not model.graph.find_nodes(op="call_function", target=OPS.dequantize_per_channel.default)


def test_a_table_that_is_float_stays():
    indices = torch.tensor([0, 1])
    model = torch.export.export(nn.Embedding(4, 2), (indices,)).module()
    code = str(model.graph)
    gather_codes(model)
    assert str(model.graph) == code
