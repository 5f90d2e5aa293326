"""torchao's X86InductorQuantizer annotates a convolution and relu as one pattern although more reads the convolution.

Its other readers get the float number, and the activation's quantize then stands behind a float relu. Exit status 1: so
it is. Needs torch and torchao alone.
"""

import sys

import torch
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86


class TwoReaders(torch.nn.Module):
    """A convolution that a relu and a pool read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute."""
        y = self.conv(x)
        return self.relu(y), self.pool(y)


inputs = (torch.rand(1, 3, 8, 8),)
quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
graph = prepare_pt2e(torch.export.export(TwoReaders().eval(), inputs).module(), quantizer).graph
(conv,) = graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
(relu,) = graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)
(pool,) = graph.find_nodes(op="call_function", target=torch.ops.aten.max_pool2d.default)
annotation = conv.meta["quantization_annotation"]
fused = relu.meta.get("quantization_annotation") is not None and not annotation._is_output_of_quantized_pattern
print(f"{conv} is read by {', '.join(map(str, conv.users))}; annotated as inside a pattern: {fused}")
print(f"{pool} reads {pool.args[0]}: {'the float number' if pool.args[0] is conv else 'what an observer gives'}")
sys.exit(fused and pool.args[0] is conv)
