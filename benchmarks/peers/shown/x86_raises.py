"""torchao's X86InductorQuantizer raises at padding="same", and at a convolution that two calls share.

Exit status 1: it does. Needs torch and torchao alone.
"""

import sys
from collections.abc import Callable

import torch
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86


class Net(torch.nn.Module):
    """Holds one convolution.

    Args:
        conv: The convolution.
        compute: What is made of it and an image.
    """

    def __init__(self, conv: torch.nn.Module, compute: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.compute = conv, compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute."""
        return self.compute(self.conv, x)


def raised(model: torch.nn.Module) -> str:
    """Return what annotating a model raises."""
    exported = torch.export.export(model.eval(), (torch.rand(1, 4, 8, 8),)).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    try:
        prepare_pt2e(exported, quantizer)
    except ValueError as e:
        return f"ValueError: {e}"
    return ""


padded = raised(Net(torch.nn.Conv2d(4, 4, 3, padding="same"), lambda conv, x: conv(x)))
twice = raised(Net(torch.nn.Conv2d(4, 4, 3), lambda conv, x: conv(x) * conv(x + 1)))
print(f"padding='same': {padded or 'no error'}; called twice: {twice or 'no error'}")
sys.exit(bool(padded) and bool(twice))
