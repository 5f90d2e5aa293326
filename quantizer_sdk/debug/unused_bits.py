"""How many bits of the codes of stored weights nobody uses: a scale that is too large leaves the outer codes empty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node

from quantizer_sdk.constants import Constants
from quantizer_sdk.qdq import Layout

__all__ = ["unused_weight_bits"]

_WIDEST = 2**16
"""More codes than that are no weight's: a bias never uses them all."""


def unused_weight_bits(constants: Constants, nodes: Iterable[Node]) -> float:
    """Return the most bits that go unused in one of the weights among these nodes; 0 where there are none.

    Args:
        constants: The tensors of the graph.
        nodes: Nodes of one layer; dequantizes of stored codes count, with a scale for the tensor or for each channel.
    """
    return max((_unused(constants, node) for node in nodes), default=0.0)


def _unused(constants: Constants, node: Node) -> float:
    layout = next((it for it in (Layout.PER_TENSOR, Layout.PER_CHANNEL) if it.value[1] is node.target), None)
    codes: Any = node.args[0] if layout is not None else None
    if not isinstance(codes, Node) or codes.op != "get_attr":
        return 0.0
    zero: Any = node.args[2]
    first = 3 if layout is Layout.PER_TENSOR else 4
    low, high = (int(it) for it in node.args[first : first + 2])  # type: ignore[arg-type]  # numbers
    if high - low >= _WIDEST:
        return 0.0
    offset = constants.read(zero).long().reshape(-1) if isinstance(zero, Node) else torch.tensor([int(zero)])
    stored = constants.read(codes)
    if not stored.numel():
        return 0.0
    least, most = (int(it) for it in torch.aminmax(stored))
    centre = int(offset[0]) if bool((offset == offset[0]).all()) else 0
    used = max(most - centre, centre - least)
    return math.log2(max(high - centre, centre - low) / used) if used > 0 else 0.0
