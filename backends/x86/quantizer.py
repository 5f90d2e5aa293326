"""The quantizer for x86: one table, a column for each runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import GraphModule

from quantizer_sdk import InvalidAnnotationError, QuantizationConfig, TableQuantizer
from quantizer_sdk.backends.x86.configs import get_default_x86_quantization_config
from quantizer_sdk.backends.x86.functions import overloads_of_function
from quantizer_sdk.backends.x86.rewrites import REWRITES
from quantizer_sdk.backends.x86.table import rows_of
from quantizer_sdk.backends.x86.target import Target

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["X86Quantizer"]


class X86Quantizer(TableQuantizer):
    """Quantizes what runs on integer kernels on x86, and says of all else why it does not.

    Without any `set_` call it quantizes all it can, statically, with a scale for each output channel of a weight. Set
    configs from `get_default_x86_quantization_config` to choose otherwise; each layer may have its own, static or
    dynamic. On oneDNN, matmul of two activations is quantized only if a rule names it. Methods named `set_..._qconfig`
    are the peer's.

    Args:
        target: The runtime: "onednn" for eager PyTorch, "inductor" for compiled code, "onnxruntime" for ONNX files.
            oneDNN's kernels give floats where no integer kernel reads on, ONNX Runtime's mostly codes: quantizes are
            put accordingly.
        quantize_results: Whether every result is quantized, also where no integer kernel reads it, so that the model
            itself gives codes.

    Raises:
        RuleError: There is no such target.
    """

    def __init__(self, target: str | Target = Target.ONEDNN, *, quantize_results: bool = False) -> None:
        super().__init__()
        self.target = Target.named(target)
        self.quantize_results = quantize_results
        self.rewrites = REWRITES[self.target]
        self._asked: frozenset[torch._ops.OpOverload] = frozenset()
        self._choose_rows()

    def default_config(self) -> QuantizationConfig:
        """Return static uint8 with weights per channel, of 7 bits where this machine multiplies 8 with loss."""
        return get_default_x86_quantization_config()

    def alternatives(self, config: QuantizationConfig) -> dict[str, QuantizationConfig]:
        """Return those of every table quantizer; qparams of each run are those of each row, for quiet rows need it."""
        found = super().alternatives(config)
        of_each_run = found.pop("activations of each run", None)
        if of_each_run is not None:
            by_row = get_default_x86_quantization_config(is_dynamic=True, is_per_token=True).input_activation
            found["activations of each row"] = dataclasses.replace(of_each_run, input_activation=by_row)
        return found

    def set_module_type_qconfig(
        self, module_type: type[nn.Module], quantization_config: QuantizationConfig | None
    ) -> Self:
        """Do as `set_module_type`."""
        return self.set_module_type(module_type, quantization_config)

    def set_module_name_qconfig(self, module_name: str, quantization_config: QuantizationConfig | None) -> Self:
        """Do as `set_module_name`."""
        return self.set_module_name(module_name, quantization_config)

    def set_function_type_qconfig(
        self, function_type: Callable[..., Any], quantization_config: QuantizationConfig | None
    ) -> Self:
        """Quantize the calls of a function such as `torch.matmul` or `torch.nn.functional.linear` with this config.

        Raises:
            RuleError: It is no function of tensors that export keeps as an op of its own.
        """
        name = f"{getattr(function_type, '__module__', None)}.{getattr(function_type, '__name__', function_type)}"
        self._set_overloads(name, overloads_of_function(function_type), quantization_config)
        return self

    def validate(self, model: GraphModule) -> None:
        """Refuse annotations that the target's kernels cannot compute, whoever wrote them.

        Raises:
            InvalidAnnotationError: There are some; states all of them, by node and the user's line.
        """
        if found := self.violations(model):
            message = f"{self.target.value} has no kernel for {len(found)} annotated ops: {'; '.join(found)}"
            raise InvalidAnnotationError(message)

    def _set_overloads(
        self, name: str, overloads: tuple[torch._ops.OpOverload, ...], config: QuantizationConfig | None
    ) -> None:
        super()._set_overloads(name, overloads, config)
        if config is not None:
            self._asked |= set(overloads)
            self._choose_rows()

    def _choose_rows(self) -> None:
        self.rows = rows_of(self.target, quantize_results=self.quantize_results, asked=self._asked)
