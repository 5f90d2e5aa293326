"""Choose for each element of a weight whether it is rounded up or down, so that the layer's result stays close.

AdaRound (Nagel et al. 2020, arXiv:2004.10568, §3): W̃ = s·(⌊W/s⌋ + h(V)) with the rectified sigmoid
h(V) = clip(1.2·σ(V) - 0.1, 0, 1), and a regularizer λ·Σ(1 - |2h - 1|^β), whose β falls, that drives h to 0 or 1.
Here the error of each output channel is taken relative to that of rounding to nearest, so that one λ does for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Reconstruction", "chosen_codes"]

_STRETCH, _SHIFT = 1.2, -0.1  # ζ - γ and γ
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_WARM_UP = 0.2  # the share of iterations without the regularizer
_LAMBDA = 0.3
_RATE = 0.1
_ROWS = (128, 256)  # of one iteration: twice as many as inputs, within these


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """One layer's problem.

    Attributes:
        operand: What the quantized model multiplies, [groups, rows, inputs].
        target: What the float model has behind its activation, [rows, outputs].
        weight: The weight in units of its scale, [groups, inputs, outputs of a group].
        scale: That of each of its elements, the same shape.
        nearest: The code next to each, the same shape.
        low: The smallest code that each may have, the same shape.
        high: The largest.
        bias: [outputs], or 0.0.
        activation: The function behind the layer.
    """

    operand: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    scale: torch.Tensor
    nearest: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    bias: torch.Tensor | float
    activation: Callable[[torch.Tensor], torch.Tensor]

    def error(self, codes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the mean square error of each output channel over these rows; codes may lie between whole ones."""
        product = torch.bmm(self.operand[:, rows], codes * self.scale)
        result = product.movedim(0, 1).reshape(len(rows), -1) + self.bias
        return (self.activation(result) - self.target[rows]).square().mean(0)


def chosen_codes(
    problem: Reconstruction, rows: torch.Tensor, iterations: int, generator: torch.Generator
) -> torch.Tensor:
    """Return codes that are each the one below the weight or the one above.

    Args:
        problem: The layer.
        rows: Which rows to learn from.
        iterations: Steps of Adam.
        generator: Draws the rows of each.
    """
    nearest = problem.nearest
    floor = problem.weight.floor()
    down, up = (torch.minimum(torch.maximum(code, problem.low), problem.high) for code in (floor, floor + 1))
    step = up - down  # 0 where there is no choice
    error = problem.error(nearest, rows)
    weighting = problem.weight.shape[1] / error.clamp(min=max(float(error.mean()) * 1e-4, 1e-30))
    share = (problem.weight - floor).clamp(1e-3, 1 - 1e-3)
    logits = -torch.log(_STRETCH / (share - _SHIFT) - 1)
    count = min(max(2 * problem.weight.shape[1], _ROWS[0]), _ROWS[1], len(rows))
    with torch.enable_grad():
        logits.requires_grad_()
        adam = torch.optim.Adam([logits], lr=_RATE)
        for iteration in range(iterations):
            picked = rows[torch.randint(len(rows), (count,), generator=generator)]
            upward = (torch.sigmoid(logits) * _STRETCH + _SHIFT).clamp(0, 1)
            loss = (problem.error(down + step * upward, picked) * weighting).sum()
            progress = (iteration / iterations - _WARM_UP) / (1 - _WARM_UP)
            if progress > 0:
                beta = _LAST_BETA + 0.5 * (_FIRST_BETA - _LAST_BETA) * (1 + math.cos(math.pi * progress))
                loss = loss + _LAMBDA * (1 - (2 * upward - 1).abs().pow(beta)).sum()
            adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    return torch.where(step > 0, torch.where(logits.detach() >= 0, up, down), nearest)
