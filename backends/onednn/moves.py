"""Ops that put elements elsewhere, or choose among them, and change none: these run on codes as they run on floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.backends.onednn.editing import QParams, call_of
from quantizer_sdk.backends.onednn.window_ops import max_pool

__all__ = ["PADS", "Move", "move_of"]

_ATEN = torch.ops.aten
_VIEWS = frozenset(
    {
        *(_ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default, _ATEN.flatten.using_ints),
        *(_ATEN.squeeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims, _ATEN.unsqueeze.default, _ATEN.unflatten.int),
        *(_ATEN.permute.default, _ATEN.transpose.int, _ATEN.t.default, _ATEN.movedim.int, _ATEN.expand.default),
        *(_ATEN.contiguous.default, _ATEN.clone.default, _ATEN.alias.default, _ATEN.detach.default),
        *(_ATEN.pixel_shuffle.default, _ATEN.pixel_unshuffle.default, _ATEN.channel_shuffle.default),
        *(_ATEN.flip.default, _ATEN.roll.default, _ATEN.repeat.default, _ATEN.upsample_nearest2d.vec),
    }
)
_PARTS = frozenset({_ATEN.slice.Tensor, _ATEN.select.int, _ATEN.narrow.default, _ATEN.index_select.default})
_JOINS = frozenset({_ATEN.cat.default, _ATEN.concat.default, _ATEN.concatenate.default, _ATEN.stack.default})
PADS = frozenset({_ATEN.pad.default, _ATEN.constant_pad_nd.default})
_POOLS = frozenset({_ATEN.max_pool2d.default})
_ALL = _VIEWS | _PARTS | PADS | _POOLS | {max_pool}


@dataclass(frozen=True, slots=True)
class Move:
    """A call that moves elements.

    Attributes:
        node: The call.
        operands: The tensors whose elements it moves.
        shrinks: Whether the result has fewer elements, so that fewer are to be quantized after it.
    """

    node: Node
    operands: tuple[Node, ...]
    shrinks: bool

    def padding_of(self, qparams: QParams) -> int | None:
        """Return the code that the call pads with, 0 where it does not pad; None where it pads with no number."""
        if self.node.target not in PADS:
            return 0
        call = call_of(self.node)
        value = call["value"]
        if call.get("mode", "constant") != "constant" or isinstance(value, Node):
            return None
        code = torch.ops.quantized_decomposed.quantize_per_tensor.default(
            torch.tensor(float(value or 0)),
            *(qparams.scale, qparams.zero_point, qparams.quant_min, qparams.quant_max, torch.uint8),
        )
        return int(code)

    def exact_padding(self, qparams: QParams, code: int) -> bool:
        """Whether a code stands for just the number that the call pads with."""
        if self.node.target not in PADS:
            return True
        value = torch.tensor(float(call_of(self.node)["value"] or 0))
        return bool(torch.tensor(float(code - qparams.zero_point)) * torch.tensor(qparams.scale) == value)

    def take_codes(self, padding: int) -> None:
        """Let the call move codes, and pad with one."""
        if self.node.target in _POOLS:
            call = call_of(self.node)
            window = [_pair(call[name]) for name in ("kernel_size", "stride", "padding", "dilation")]
            window[1] = window[1] or window[0]
            self.node.target = max_pool
            self.node.args, self.node.kwargs = (self.node.args[0], *window, call["ceil_mode"]), {}
        if self.node.target in PADS:
            call = call_of(self.node)
            mode = (call["mode"],) if "mode" in call else ()
            self.node.args, self.node.kwargs = (self.node.args[0], call["pad"], *mode, padding), {}


def move_of(node: Node) -> Move | None:
    """Return a call as a move; None for any other node."""
    if node.op != "call_function":
        return None
    target: Any = node.target
    if target in _JOINS:
        tensors = node.args[0]
        if not isinstance(tensors, (list, tuple)) or not all(isinstance(item, Node) for item in tensors):
            return None
        return Move(node, tuple(dict.fromkeys(tensors)), shrinks=False)  # type: ignore[arg-type]
    if target not in _ALL or not node.args or not isinstance(node.args[0], Node):
        return None
    if target is _ATEN.index_select.default and node.args[2] is node.args[0]:
        return None
    return Move(node, (node.args[0],), shrinks=target in _PARTS)


def _pair(sizes: Any) -> list[Any]:
    values: list[Any] = [sizes] if isinstance(sizes, int) else list(sizes)
    return values * 2 if len(values) == 1 else values
