"""What every fake quantizer is: a module that rounds its input to codes and back, and can say with which qparams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from quantizer_sdk.errors import UncalibratedError
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.module import QParamsModule

__all__ = [
    "FakeQuantizeBase",
    "disable_fake_quant",
    "disable_observer",
    "enable_fake_quant",
    "enable_observer",
]


class FakeQuantizeBase(QParamsModule, ABC):
    """Rounds its input to the codes of a spec and back; learns the range of that spec from what it sees.

    Attributes:
        activation_post_process: The observer that chooses the qparams.
        fake_quant_enabled: uint8 [1]; whether it rounds, else it passes its input through.
        observer_enabled: uint8 [1]; whether it learns.
        scale: float32, the qparams in force: [1], [channels], or of the grid's shape.
        zero_point: int32, the same.
        learns_in_eval: Whether it learns in eval mode too, as an observer for calibration does. Models prepared for
            training set it to False: validation data leaves no trace in them.
    """

    learns_in_eval: bool = True

    activation_post_process: ObserverBase
    fake_quant_enabled: torch.Tensor
    observer_enabled: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fake_quant_enabled", torch.tensor([1], dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.tensor([1], dtype=torch.uint8))
        self.scale_floor = None

    def learns(self) -> bool:
        """Whether the next input is learned from."""
        return bool(self.observer_enabled.item()) and (self.training or self.learns_in_eval)

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Learn and round, as far as each is enabled."""

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scale and zero point in force: those that training has seen."""
        scale = self.scale.detach()
        return scale if self.scale_floor is None else torch.maximum(scale, self.scale_floor), self.zero_point.detach()

    @property
    def calibrated(self) -> bool:
        """Whether it has seen data."""
        return self.activation_post_process.calibrated

    def _require_calibrated(self) -> None:
        """Refuse to round by qparams that nobody chose.

        Raises:
            UncalibratedError: It has seen no data.
        """
        if not self.calibrated:
            observer = self.activation_post_process
            message = (
                f"{type(self).__name__} on {observer.location} has seen no data to choose a range by; run the model in "
                "training mode first, with observers enabled"
            )
            raise UncalibratedError(message)

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Round from now on, or not."""
        self.fake_quant_enabled.fill_(int(enabled))

    def disable_fake_quant(self) -> None:
        """Pass the input through from now on."""
        self.enable_fake_quant(enabled=False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Learn from now on, or not."""
        self.observer_enabled.fill_(int(enabled))

    def disable_observer(self) -> None:
        """Keep the qparams from now on."""
        self.enable_observer(enabled=False)

    def __getattr__(self, name: str) -> Any:
        """Answer for the observer: dtype, range, scheme, granularity, where it sits."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            observer = self.__dict__.get("_modules", {}).get("activation_post_process")
            if observer is None or name.startswith("__"):
                raise
            return getattr(observer, name)

    def extra_repr(self) -> str:
        """Return what is enabled, for printing."""
        return f"fake_quant_enabled={bool(self.fake_quant_enabled)}, observer_enabled={bool(self.observer_enabled)}"


def enable_fake_quant(module: nn.Module) -> None:
    """Let a fake quantizer round; nothing for any other module, as `model.apply` hands them over."""
    if isinstance(module, FakeQuantizeBase):
        module.enable_fake_quant()


def disable_fake_quant(module: nn.Module) -> None:
    """Let a fake quantizer pass its input through; nothing for any other module."""
    if isinstance(module, FakeQuantizeBase):
        module.disable_fake_quant()


def enable_observer(module: nn.Module) -> None:
    """Let a fake quantizer learn; nothing for any other module."""
    if isinstance(module, FakeQuantizeBase):
        module.enable_observer()


def disable_observer(module: nn.Module) -> None:
    """Let a fake quantizer keep its qparams; nothing for any other module."""
    if isinstance(module, FakeQuantizeBase):
        module.disable_observer()
