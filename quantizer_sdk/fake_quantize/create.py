"""From a spec to its fake quantizer: what `prepare_qat_pt2e` inserts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.fake_quantize.fake_quantize import FakeQuantize, FixedQParamsFakeQuantize
from quantizer_sdk.fake_quantize.learnable import LearnableFakeQuantize
from quantizer_sdk.granularity import PerAxis
from quantizer_sdk.observers.base import ObserverBase
from quantizer_sdk.observers.create import create_observer
from quantizer_sdk.observers.fixed import FixedQParamsObserver
from quantizer_sdk.observers.module import ObserverFactory, QParamsModule
from quantizer_sdk.spec import QuantizationSpec, QuantizationSpecBase, granularity_of

__all__ = ["create_fake_quantize"]


def create_fake_quantize(
    spec: QuantizationSpecBase, location: str, sources: Sequence[nn.Module] = (), shape: Sequence[int] | None = None
) -> nn.Module:
    """Make the fake quantizer that a spec asks for; a spec that names a plain observer gets one around it.

    Args:
        spec: Any spec but a shared one.
        location: Where it will sit, for its errors.
        sources: For a derived spec, the fake quantizers it derives from.
        shape: The shape of the tensor, as far as it is known; learnable ones have a Parameter for each channel of it.

    Raises:
        InvalidSpecError: The constructor refuses the spec's fields.
        UnsupportedError: The spec is of a kind that the engine does not know, or names an observer of another library
            that rounds nothing.
    """
    made = create_observer(_with_channels(spec, shape), location, sources)
    if isinstance(made, FixedQParamsObserver):
        return FixedQParamsFakeQuantize.of(made)
    if isinstance(made, ObserverBase):
        return FakeQuantize.of(made)
    if not isinstance(made, QParamsModule) and not hasattr(made, "fake_quant_enabled"):
        name = type(made).__name__
        message = (
            f"{location}: {type(made).__module__}.{name} observes and rounds nothing, so nothing would be trained for; "
            f"name a fake quantizer of that library in the spec, such as FakeQuantize.with_args(observer={name})"
        )
        raise UnsupportedError(message)
    return made


def _with_channels(spec: QuantizationSpecBase, shape: Sequence[int] | None) -> QuantizationSpecBase:
    """Tell a learnable fake quantizer how many channels there are, if its user did not."""
    if not isinstance(spec, QuantizationSpec) or shape is None:
        return spec
    factory, granularity = spec.observer_or_fake_quant_ctr, granularity_of(spec)
    kind = factory.constructor if isinstance(factory, ObserverFactory) else factory
    told = isinstance(factory, ObserverFactory) and "channels" in factory.arguments
    learnable = isinstance(kind, type) and issubclass(kind, LearnableFakeQuantize)
    if not learnable or told or not isinstance(granularity, PerAxis):
        return spec
    size = shape[granularity.axis]
    if isinstance(size, torch.SymInt):
        return spec
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=factory.with_args(channels=size))
