"""The observer whose qparams follow from those of other observers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from quantizer_sdk.observers.base import ObserverBase

__all__ = ["DerivedObserver", "is_derived", "replace_observers"]


class DerivedObserver(ObserverBase):
    """Looks at no data; computes its qparams from other observers when asked, such as a bias from two scales.

    Args:
        sources: The observers derived from, in the order of the spec.
        derive_qparams_fn: Takes them, returns (scale, zero_point).
        keep_float: Whether the constant it watches is rounded to its codes and stored float.
    """

    def __init__(
        self,
        sources: Sequence[nn.Module],
        derive_qparams_fn: Callable[[list[Any]], tuple[torch.Tensor, torch.Tensor]],
        *args: Any,
        keep_float: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.keep_float = keep_float
        # Kept out of the module tree: they are submodules of the model already, and one state has one place in it.
        self.__dict__["_sources"] = tuple(sources)
        self.derive_qparams_fn = derive_qparams_fn

    @property
    def sources(self) -> tuple[nn.Module, ...]:
        """The observers derived from."""
        found: tuple[nn.Module, ...] = self.__dict__["_sources"]
        return found

    @property
    def calibrated(self) -> bool:
        """Whether every source is."""
        return all(getattr(source, "calibrated", True) for source in self.__dict__["_sources"])

    def observe(self, x: torch.Tensor) -> None:
        """Do nothing."""

    def merge(self, others: Sequence[ObserverBase]) -> None:
        """Do nothing: there is no state."""

    def observed_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the real values of the smallest and the largest code."""
        scale, zero_point = self.calculate_qparams()
        return scale * (self.quant_min - zero_point), scale * (self.quant_max - zero_point)

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the derived scale and zero point, float32 and int32, of shape [1] or [channels]."""
        return self.derive(self.sources)

    def derive(self, sources: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what follows from these sources' qparams."""
        scale, zero_point = self.derive_qparams_fn(list(sources))
        return scale.to(torch.float32).reshape(-1), zero_point.to(torch.int32).reshape(-1)


def is_derived(module: nn.Module) -> bool:
    """Whether a module's qparams derive from those of others: a `DerivedObserver`, or a fake quantizer around one."""
    inner = module._modules.get("activation_post_process")
    return isinstance(module, DerivedObserver) or isinstance(inner, DerivedObserver)


def replace_observers(modules: dict[str, nn.Module], replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put other observers in the place of some, by path, and let copies of those derived from them follow.

    Args:
        modules: Observers and other modules by path; entries are replaced, no module is changed.
        replacements: The new module for each old one.
    """
    known = dict(replacements)
    for module in modules.values():  # sources come before what derives from them
        if isinstance(module, DerivedObserver) and any(source in known for source in module.sources):
            known[module] = follower = copy.copy(module)
            follower.__dict__["_sources"] = tuple(known.get(source, source) for source in module.sources)
    for path, module in modules.items():
        modules[path] = known.get(module, module)
