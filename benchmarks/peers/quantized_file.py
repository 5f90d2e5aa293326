"""A file that `quantize_static` wrote, read back: what computes each value of the float file, and from which codes."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["QuantizedFile", "Region", "Stored"]

_SUFFIX = "_QuantizeLinear_Input"
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_DTYPES = {2: torch.uint8, 3: torch.int8, 6: torch.int32}
"""By their numbers in ONNX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A constant of the file.

    Attributes:
        value: As it was in the float file.
        dtype: Of its codes.
        axis: Along which it has a scale each; None for one scale.
    """

    value: torch.Tensor
    dtype: torch.dtype
    axis: int | None


@dataclass(slots=True, kw_only=True)
class Region:
    """What lies between a value and the values that it is computed from.

    Attributes:
        scale: The name of the scale that the value is quantized with, itself or before it is moved.
        scales: For each value that is read: the name of the scale that it is quantized with; None if read as a float.
        stored: The constants that are read as codes.
        twice: Whether the value is what another was rounded to, moved and rounded anew.
        whole: Whether nothing else is rounded on the way, but for what is only moved.
    """

    scale: str | None = None
    scales: dict[str, str | None] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)
    twice: bool = False
    whole: bool = True


class QuantizedFile:
    """A file in q/dq form.

    Args:
        source: The float file that it was made of.
        quantized: The file.
    """

    def __init__(self, source: Any, quantized: Any) -> None:
        from onnx import numpy_helper

        nodes = quantized.graph.node
        floats = (tensor for tensor in source.graph.initializer if tensor.data_type == 1)
        self._floats = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in floats}
        self._codes = {tensor.name: tensor for tensor in quantized.graph.initializer}
        self._producers = {name.removesuffix(_SUFFIX): node for node in nodes for name in node.output}
        # A graph output comes from a dequantize, whose quantize reads it under another name.
        real = {name: node for node in nodes for name in node.output if name.endswith(_SUFFIX)}
        self._producers.update({name.removesuffix(_SUFFIX): node for name, node in real.items()})
        self._made_codes = {node.output[0]: node for node in nodes if node.op_type == "QuantizeLinear"}
        self._dequantizes = {node.output[0]: node for node in nodes if node.op_type == "DequantizeLinear"}
        quantizes = self._made_codes.values()
        self._scales = {node.input[0].removesuffix(_SUFFIX): node.input[1] for node in quantizes}
        self._inputs = {entry.name for entry in quantized.graph.input}

    def has(self, value: str) -> bool:
        """Whether a value of the float file is still there."""
        return value in self._producers or value in self._inputs

    def region(self, value: str, known: AbstractSet[str]) -> Region:
        """Return what computes a value from others.

        Args:
            value: Which one.
            known: The values at which to stop.
        """
        found = Region(scale=self._scales.get(value))
        waiting = [(self._producers[value], True)]
        while waiting:
            node, moved = waiting.pop()
            moved = moved and node.op_type in _MOVES
            for read in filter(None, node.input):
                name, scale = self._read(read, found)
                if name is None:
                    continue
                if name in known and name != value:
                    found.scales[name] = scale if scale is not None else found.scales.get(name)
                elif scale is None or (moved and found.scale in (None, scale)):
                    found.scale = scale if moved and scale is not None else found.scale
                    waiting += [(self._producers[name], moved)] if name in self._producers else []
                elif moved and name in self._producers and not found.twice:
                    found.twice = True
                    waiting.append((self._producers[name], False))
                else:
                    source = self._moved_from(name, scale, known)
                    found.whole = found.whole and source is not None
                    found.scales.update({} if source is None else {source: scale})
        return found

    def _read(self, read: str, found: Region) -> tuple[str | None, str | None]:
        """Return the value that an input stands for, and the scale that it went through; a constant is noted."""
        dequantize = self._dequantizes.get(read)
        if dequantize is None:
            return (None if read in self._codes else read), None
        codes, scale = dequantize.input[0], dequantize.input[1]
        if codes not in self._codes:
            return self._made_codes[codes].input[0].removesuffix(_SUFFIX), scale
        stored = self._codes[codes]
        value = self._floats.get(codes.removesuffix("_quantized"))
        if value is not None:
            axis = next((item.i for item in dequantize.attribute if item.name == "axis"), 1)
            axis = axis % max(1, value.dim()) if self._codes[scale].dims else None
            found.stored.append(Stored(value=value, dtype=_DTYPES[stored.data_type], axis=axis))
        return None, None

    def _moved_from(self, name: str, scale: str, known: AbstractSet[str]) -> str | None:
        """Return the known value that a quantized one is moved from, if nothing is rounded to other codes between."""
        while name not in known:
            node = self._producers.get(name)
            if node is None or node.op_type not in _MOVES:
                return None
            source, own = self._read(node.input[0], Region())
            if source is None or own not in (None, scale):
                return None
            name = source
        return name
