"""torchao's X86InductorQuantizer quantizes torch.cat and leaves torch.concat float, in silence. Exit status 1: it does.

Needs torch and torchao alone.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86


class Joined(torch.nn.Module):
    """Two convolutions side by side."""

    def __init__(self, join: Callable[..., Any]) -> None:
        super().__init__()
        self.join, self.left, self.right = join, torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        """Compute."""
        return self.join([self.left(x), self.right(x)], 1)


def annotated(join: Callable[..., Any]) -> bool:
    """Whether the op that joins is annotated."""
    inputs = (torch.rand(1, 3, 8, 8),)
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    graph = prepare_pt2e(torch.export.export(Joined(join).eval(), inputs).module(), quantizer).graph
    (node,) = [node for node in graph.nodes if str(node.target).startswith("aten.c") and "cat" in str(node.target)]
    return "quantization_annotation" in node.meta


cat, concat = annotated(torch.cat), annotated(torch.concat)
print(f"annotated: torch.cat {cat}, torch.concat {concat}")
sys.exit(cat and not concat)
