"""Attention runs inside the delegate as a whole, float between the quantized layers around it."""

import torch
from torch import nn
from torch.nn import functional

from quantizer_sdk import explain
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, lower


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        query, key, value = (layer(x).view(2, 6, 4, 4).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.mix(mixed.transpose(1, 2).reshape(2, 6, 16))


def test_attention_is_one_subgraph_with_the_linear_layers_around_it(export, quantize):
    x = torch.randn(2, 6, 16)
    model = Attention()
    converted = quantize(export(model, x), XNNPACKQuantizer(), x)
    left_float = {op.op for op in explain(converted).float_ops()}
    assert left_float == {"aten.bmm.default", "aten.div.Tensor", "aten.softmax.int", "aten.reshape.default"}
    program = lower(converted, (x,))
    assert program.delegation().subgraphs == 1
    assert program.delegation().non_delegated == ()
    assert sum(kernel.name == "FullyConnected" and kernel.integer for kernel in program.kernels()) == 4
    (found,) = program.run(x)
    # The products between are float: a code of the last layer's operand may be another, which moves results by a step.
    step = [node.args[1] for node in converted.graph.nodes if ".quantize_per_tensor" in str(node.target)][-1]
    with torch.no_grad():
        torch.testing.assert_close(found, converted(x), rtol=0, atol=min(2 * step, 0.02))
