"""Scaled dot product attention, written out: two products and a softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantizer_sdk.backends.onnxruntime.call import Call

__all__ = ["attention"]


def attention(call: Call) -> ir.Value:
    """Softmax(q k' * scale + mask) v. A query whose every key is masked gives 0, as in torch."""
    call.require(dropout_p=0.0)
    query, key, value = (call.args[name] for name in ("query", "key", "value"))
    depth, rank = int(call.example(query).shape[-1]), call.example(key).dim()
    scale = 1 / math.sqrt(depth) if call.args["scale"] is None else float(call.args["scale"])
    keys, values = call.value(key), call.value(value)
    if call.args.get("enable_gqa"):
        keys, values = (_repeated_heads(call, item, query) for item in (key, value))
    turned = call.emit("Transpose", keys, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = call.emit("Mul", call.emit("MatMul", call.value(query), turned), call.value(scale))
    mask, dead = call.args["attn_mask"], None
    if call.args["is_causal"]:
        scores = call.emit("Where", _causal(call), scores, call.value(-math.inf))
    elif mask is not None:
        added, dead = _living(call, mask)
        scores = call.emit("Add", scores, added)
    mixed = call.emit("MatMul", call.emit("Softmax", scores, axis=-1), values)
    return mixed if dead is None else call.emit("Where", dead, call.value(0.0), mixed)


def _living(call: Call, mask: Any) -> tuple[ir.Value, ir.Value]:
    """Return what to add to scores, with nothing masked for queries whose every key is, and which queries these are.

    The mask is small, as a rule: the same for all heads, and for all queries.
    """
    if call.example(mask).dtype is torch.bool:
        added = call.emit("Where", call.value(mask), call.value(0.0), call.value(-math.inf))
    else:
        added = call.value(mask, torch.float32)
    largest = call.emit("ReduceMax", added, call.int64("keys", [-1]), keepdims=1)
    dead = call.emit("Equal", largest, call.value(-math.inf))
    return call.emit("Where", dead, call.value(0.0), added), dead


def _causal(call: Call) -> ir.Value:
    """Return which keys each query may look at: those not after it."""
    rows, columns = (call.emit("Shape", call.value(call.args[name]), start=-2, end=-1) for name in ("query", "key"))
    shape = call.emit("Concat", rows, columns, axis=0)
    ones = call.emit("Expand", call.constant("one", torch.ones((), dtype=torch.int32)), shape)
    return call.cast(call.emit("Trilu", ones, upper=0), torch.bool)


def _repeated_heads(call: Call, tensor: Any, query: Any) -> ir.Value:
    """Repeat each head of keys or values for the queries that share it."""
    heads, shared = (int(call.example(item).shape[-3]) for item in (query, tensor))
    rank = call.example(tensor).dim()
    places = torch.arange(shared, dtype=torch.int64).repeat_interleave(heads // shared)
    return call.emit("Gather", call.value(tensor), call.constant("heads", places), axis=rank - 3)
