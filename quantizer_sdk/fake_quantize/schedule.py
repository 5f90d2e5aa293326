"""When to stop learning ranges and statistics: the usual end of training with quantization."""

from __future__ import annotations

from typing import Any

from torch import nn

from quantizer_sdk.errors import CalibrationError
from quantizer_sdk.fake_quantize.base import disable_fake_quant, disable_observer, enable_fake_quant, enable_observer
from quantizer_sdk.passes.training_mode import freeze_bn_stats, update_bn_stats

__all__ = ["QATSchedule"]


class QATSchedule:
    """Switches rounding, observers and batch norm statistics after so many steps.

    Call `step()` after each step of the optimizer. Its state is a part of a checkpoint.

    Args:
        model: The result of `prepare_qat_pt2e`, or a module around it.
        fake_quant_after: Steps trained in float, with observers learning, before rounding begins.
        freeze_observers_after: Steps after which ranges stay; None for never.
        freeze_batch_norm_after: Steps after which batch norms keep and use their statistics; None for never.

    Raises:
        CalibrationError: Ranges are to stay before any step has been observed.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        fake_quant_after: int = 0,
        freeze_observers_after: int | None = None,
        freeze_batch_norm_after: int | None = None,
    ) -> None:
        if freeze_observers_after is not None and freeze_observers_after < 1:
            message = f"freeze_observers_after is {freeze_observers_after}; observers need a step to learn from"
            raise CalibrationError(message)
        self._model = model
        self.fake_quant_after = fake_quant_after
        self.freeze_observers_after = freeze_observers_after
        self.freeze_batch_norm_after = freeze_batch_norm_after
        self.steps = 0
        self._apply()

    def step(self) -> None:
        """Count a step, and switch what is due."""
        self.steps += 1
        self._apply()

    def _apply(self) -> None:
        self._model.apply(enable_fake_quant if self.steps >= self.fake_quant_after else disable_fake_quant)
        self._model.apply(disable_observer if self._is_due(self.freeze_observers_after) else enable_observer)
        self._model.apply(freeze_bn_stats if self._is_due(self.freeze_batch_norm_after) else update_bn_stats)

    def _is_due(self, after: int | None) -> bool:
        return after is not None and self.steps >= after

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after that many steps."""
        self.steps = int(state["steps"])
        self._apply()
