"""One step of an LSTM (Hochreiter and Schmidhuber 1997) and of a GRU (Cho et al. 2014), with a classifier on top."""

from __future__ import annotations

import torch
from torch import nn

from models.entry import Entry, Inputs, Scheme
from models.seeded import seeded, vectors

__all__ = ["ENTRIES"]

_INPUTS, _WIDTH, _CLASSES = 256, 512, 64


class LSTMStep(nn.Module):
    """From an input and a state to logits and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.state = nn.Linear(_INPUTS, 4 * _WIDTH), nn.Linear(_WIDTH, 4 * _WIDTH, bias=False)
        self.classifier = nn.Linear(_WIDTH, _CLASSES)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> Inputs:
        """Map [N, inputs], [N, width], [N, width] to logits [N, classes] and two states [N, width]."""
        update, forget, candidate, output = (self.input(x) + self.state(hidden)).chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(update) * torch.tanh(candidate)
        hidden = torch.sigmoid(output) * torch.tanh(cell)
        return self.classifier(hidden), hidden, cell


class GRUStep(nn.Module):
    """From an input and a state to logits and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.state = nn.Linear(_INPUTS, 3 * _WIDTH), nn.Linear(_WIDTH, 3 * _WIDTH)
        self.classifier = nn.Linear(_WIDTH, _CLASSES)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> Inputs:
        """Map [N, inputs], [N, width] to logits [N, classes] and the state [N, width]."""
        reset_x, update_x, candidate_x = self.input(x).chunk(3, dim=1)
        reset_h, update_h, candidate_h = self.state(hidden).chunk(3, dim=1)
        update = torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(candidate_x + torch.sigmoid(reset_x + reset_h) * candidate_h)
        hidden = candidate + update * (hidden - candidate)
        return self.classifier(hidden), hidden


def _lstm(rows: int, count: int) -> list[Inputs]:
    return [(x, torch.tanh(hidden), cell) for x, hidden, cell in vectors((_INPUTS, _WIDTH, _WIDTH), rows, count)]


def _gru(rows: int, count: int) -> list[Inputs]:
    return [(x, torch.tanh(hidden)) for x, hidden in vectors((_INPUTS, _WIDTH), rows, count)]


ENTRIES = (
    Entry(name="lstm_step", build=lambda _: seeded(LSTMStep()), examples=_lstm, size=1, small=1),
    Entry(name="gru_step", build=lambda _: seeded(GRUStep()), examples=_gru, size=1, small=1),
    Entry(
        name="gru_step_dynamic",
        build=lambda _: seeded(GRUStep()),
        examples=_gru,
        size=1,
        small=1,
        schemes=((nn.Linear, Scheme.DYNAMIC),),
    ),
)
