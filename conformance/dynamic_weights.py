"""The stored weight of a gemm: codes, scales and how they are laid out, whatever the dequantize op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from quantizer_sdk.conformance.kernels import attribute

__all__ = ["StoredWeight"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredWeight:
    """A quantized weight.

    Attributes:
        codes: int64, as stored.
        zero_points: int64, one for each scale.
        scales: float32: [1], [channels], or [rows, groups] of a matrix.
        axis: The axis of the channels; None with one scale.
        group: How many neighbours along the last axis share one scale; None for all.
        quant_min: The smallest code.
        quant_max: The largest code.
        dtype: The codes' type.
    """

    codes: Tensor
    zero_points: Tensor
    scales: Tensor
    axis: int | None
    group: int | None
    quant_min: int
    quant_max: int
    dtype: torch.dtype

    @classmethod
    def of(cls, model: GraphModule, dequantize: Node) -> StoredWeight:
        """Read the dequantize of a constant."""
        codes, *rest = (_value(model, argument) for argument in dequantize.args)
        name = str(dequantize.target)
        axis = group = None
        if "per_channel_group" in name:
            scales, zeros, low, high, _dtype, group = rest[:6]
            axis = 0
            scales = scales.reshape(codes.shape[0], -1)
        elif "per_channel" in name:
            scales, zeros, axis, low, high, _dtype = rest[:6]
        else:
            scales, zeros, low, high, _dtype = rest[:5]
        scales = torch.as_tensor(scales, dtype=torch.float32)
        zeros = torch.zeros(scales.shape) if zeros is None else torch.as_tensor(zeros)
        return cls(
            codes=codes.to(torch.int64),
            zero_points=zeros.to(torch.int64).reshape(scales.shape),
            scales=scales if scales.dim() else scales.reshape(1),
            axis=axis,
            group=group,
            quant_min=low,
            quant_max=high,
            dtype=codes.dtype,
        )

    @property
    def groups(self) -> int:
        """How many scales there are along the last axis."""
        return 1 if self.group is None else self.scales.shape[1]

    @property
    def steps(self) -> Tensor:
        """The codes without their zero points, int64."""
        return self.codes - self._beside(self.zero_points)

    @property
    def real(self) -> Tensor:
        """The weight in float64, which rounds what no float32 does."""
        return self.steps.double() * self._beside(self.scales).double()

    def scales_of(self, group: int, behind: int) -> Tensor:
        """Return the float32 scale of each output channel in one group, with axes of length 1 behind the channels."""
        scales = self.scales if self.group is None else self.scales[:, group]
        return scales.reshape(-1, *(1,) * behind)

    def within(self, tensor: Tensor, group: int) -> Tensor:
        """Return a tensor whose last axis is the weight's, with zeros outside of one group."""
        if self.group is None:
            return tensor
        place = torch.arange(tensor.shape[-1]) // self.group
        return torch.where(place == group, tensor, torch.zeros((), dtype=tensor.dtype))

    def which(self) -> Tensor:
        """Return for each element the place of its scale among all scales, int64."""
        places = torch.arange(self.scales.numel()).reshape(self.scales.shape)
        return self._beside(places).expand(self.codes.shape)

    def _beside(self, one_a_scale: Tensor) -> Tensor:
        """Return one number a scale so that it broadcasts over the codes."""
        if self.group is not None:
            return one_a_scale.repeat_interleave(self.group, dim=1)
        if self.axis is None:
            return one_a_scale.reshape(())
        shape = [1] * self.codes.dim()
        shape[self.axis] = -1
        return one_a_scale.reshape(shape)


def _value(model: GraphModule, argument: Any) -> Any:
    if not isinstance(argument, Node):
        return argument
    value = attribute(model, argument)
    return value.detach() if isinstance(value, Tensor) else value
