"""Observers and fake quantizers of this library as torchao's engine takes them: objects of its own base classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torchao.quantization import pt2e as torchao

from quantizer_sdk.dtypes import INTEGER_RANGES, code_range, is_cast, storage_dtype
from quantizer_sdk.fake_quantize.base import FakeQuantizeBase
from quantizer_sdk.granularity import PerAxis, PerTensor
from quantizer_sdk.observers.derived import is_derived
from quantizer_sdk.passes.observer_qparams import granularity_of_observer
from quantizer_sdk.passes.observers_to_qdq import QDQWriter
from quantizer_sdk.qparams import default_eps
from quantizer_sdk.spec import PER_CHANNEL_SCHEMES

__all__ = ["Maker", "unwrapped", "wrapped"]

_WRITER_KEY = "quantizer_sdk_writer"


class _Wrapped:
    """Runs an observer of this library, and answers for it.

    Attributes:
        inner: The observer.
        writes: Whether it writes its own ops in torchao's `convert_pt2e`, which calls a method `convert` where there is
            one; else torchao writes them, from what it reads here.
    """

    def _take(self, inner: nn.Module, *, writes: bool) -> None:
        nn.Module.__init__(self)  # type: ignore[arg-type]  # past torchao's own, whose buffers are those of `inner`
        self.inner = inner
        self.__dict__["writes"] = writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Observe, or round."""
        result: torch.Tensor = self.inner(x)
        return result

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale and zero point in the types that the q/dq ops store."""
        scale, zero_point = self.inner.calculate_qparams()  # type: ignore[operator]
        return scale.detach().to(torch.float32), zero_point.detach().to(torch.int64)

    def __getattr__(self, name: str) -> Any:
        if name == "convert" and self.__dict__.get("writes"):
            return self._convert
        inner = self.__dict__.get("_modules", {}).get("inner")
        if inner is None or name == "convert":
            raise AttributeError(name)
        if name == "inner":
            return inner
        if name in ("quant_min", "quant_max"):
            return code_range(inner.dtype, inner.quant_min, inner.quant_max)[name == "quant_max"]
        value = getattr(inner, name)
        return default_eps() if name == "eps" and value is None else value

    def _convert(self, model: GraphModule, call: Node) -> None:
        """Write the ops of one call; for the first one of a model the qparams of all are chosen, as some derive."""
        writer = model.meta.get(_WRITER_KEY)
        if writer is None:
            modules = {  # by every name: torchao gives an observer another one at each of its points
                name: module.inner
                for name, module in model.named_modules(remove_duplicate=False)
                if isinstance(module, _Wrapped) and module.__dict__["writes"]
            }
            calls = [node for node in model.graph.nodes if node.op == "call_module" and node.target in modules]
            writer = model.meta[_WRITER_KEY] = _Writer(QDQWriter(model, calls, modules), len(calls))
        writer.write(model, call)


class _Writer:
    """Writes the ops of so many calls, and is gone from the model with the last one."""

    def __init__(self, writer: QDQWriter, count: int) -> None:
        self._writer = writer
        self._left = count

    def write(self, model: GraphModule, call: Node) -> None:
        self._writer.write(call)
        self._left -= 1
        if not self._left:
            del model.meta[_WRITER_KEY]


class WrappedObserver(_Wrapped, torchao.ObserverBase):  # type: ignore[misc]  # torchao has no types
    """An observer."""

    def __init__(self, inner: nn.Module, *, writes: bool) -> None:
        self._take(inner, writes=writes)


class WrappedFakeQuantize(_Wrapped, torchao.FakeQuantizeBase):  # type: ignore[misc]  # torchao has no types
    """A fake quantizer; torchao's `disable_observer` and the like switch it too."""

    def __init__(self, inner: FakeQuantizeBase, *, writes: bool) -> None:
        self._take(inner, writes=writes)

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Round from now on, or not."""
        self.inner.enable_fake_quant(enabled)  # type: ignore[operator]

    def enable_observer(self, enabled: bool = True) -> None:
        """Learn from now on, or not."""
        self.inner.enable_observer(enabled)  # type: ignore[operator]


def wrapped(module: Any, *, writes: bool = False) -> nn.Module:
    """Return an observer or fake quantizer as torchao's engine takes it; one of torchao's as it is.

    Args:
        module: It.
        writes: Whether it writes its own ops even where torchao could.
    """
    theirs = (torchao.ObserverBase, torchao.FakeQuantizeBase, torchao.AffineQuantizedObserverBase)
    if isinstance(module, theirs):
        return module  # type: ignore[no-any-return]
    writes = writes or not _known_to_torchao(module)
    if isinstance(module, FakeQuantizeBase):
        return WrappedFakeQuantize(module, writes=writes)
    return WrappedObserver(module, writes=writes)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what `wrapped` was given."""
    return module.inner if isinstance(module, _Wrapped) else module


def _known_to_torchao(observer: Any) -> bool:
    """Whether torchao's `convert_pt2e` writes the very ops that this library writes for an observer."""
    if is_derived(observer):
        return False
    if observer.dtype is torch.float32:
        return True
    if (
        is_cast(observer.dtype)
        or observer.dtype not in INTEGER_RANGES
        or storage_dtype(observer.dtype) != observer.dtype
    ):
        return False
    granularity, by_channel = granularity_of_observer(observer), observer.qscheme in PER_CHANNEL_SCHEMES
    if getattr(observer, "is_dynamic", False):
        return isinstance(granularity, PerTensor) and not by_channel
    if by_channel:
        return isinstance(granularity, PerAxis) and granularity.axis == observer.ch_axis >= 0
    return isinstance(granularity, PerTensor)


class Maker:
    """What a spec of torchao's names as its observer's constructor: makes the one observer of a group of points.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self._make = make
        self._made: nn.Module | None = None
        self.__name__ = "quantizer_sdk_observer"  # torchao asks every constructor for its name

    def with_args(self, **_fields: Any) -> Maker:
        """Return this: the fields of torchao's spec are taken from that which the observer is made of."""
        return self

    def __call__(self) -> nn.Module:
        """Make the observer, or return it: those that derive from it may have wanted it first."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def __deepcopy__(self, _memo: dict[int, Any]) -> Maker:
        return self  # torchao copies a spec before it calls its constructor
