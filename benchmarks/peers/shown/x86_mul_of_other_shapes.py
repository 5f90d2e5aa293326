"""torchao's X86InductorQuantizer leaves a product of two shapes float, in silence. Exit status 1: it does.

Needs torch and torchao alone.
"""

import sys

import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86


class Product(torch.nn.Module):
    """A product of two images."""

    def forward(self, image: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return image * gate


def quantizes(*shapes: tuple[int, ...]) -> int:
    """Count the quantizes of a product of these shapes."""
    inputs = tuple(map(torch.rand, shapes))
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(Product(), inputs).module(), quantizer)
    prepared(*inputs)
    return sum("quantize_per_tensor" in str(node.target) for node in convert_pt2e(prepared).graph.nodes)


equal, broadcast = quantizes((1, 4, 6, 6), (1, 4, 6, 6)), quantizes((1, 4, 6, 6), (1, 4, 1, 1))
print(
    f"quantizes and dequantizes in a product of equal shapes: {equal}, of an image and a number a channel: {broadcast}"
)
sys.exit(equal > 0 and broadcast == 0)
