"""What a converted model takes along when it is exported and saved: its report, as plain data.

Of all that a graph module's metadata holds, `torch.export.save` writes only what is under the key "custom", as JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.observers.seen import SEEN_KEY, Seen
from quantizer_sdk.qdq import Layout, is_quantize
from quantizer_sdk.report.explanation import Explanation
from quantizer_sdk.report.records import Finding, OpRecord

__all__ = ["restore_report", "restore_seen", "save_report"]

_CUSTOM = "custom"
_KEY = "quantizer_sdk_report"
_VERSION = 1


def save_report(model: GraphModule, report: Explanation) -> None:
    """Put a report, and what calibration saw of activations, where an export of a converted model keeps it."""
    seen: dict[str, list[Any]] = {}
    for name, node in _quantizes(model):
        known = node.meta.get(SEEN_KEY)
        if node.target is Layout.PER_TENSOR.value[0] and isinstance(known, Seen) and known.low is not None:
            assert known.high is not None
            ends = (float(known.low), float(known.high))
            seen.setdefault(name, []).append([*node.args[1:3], *ends, known.clipped, known.bulk, known.observer])
    saved = {
        "version": _VERSION,
        "ops": [_plain(op) for op in report.ops],
        "notes": list(report.notes),
        "warnings": [_plain(finding) for finding in report.warnings],
        "seen": seen,
    }
    model.meta[_CUSTOM] = {**model.meta.get(_CUSTOM, {}), _KEY: saved}


def restore_report(model: GraphModule) -> Explanation | None:
    """Return the report that an exported, or loaded, model took along; None where there is none."""
    saved = _saved(model)
    if saved is None:
        return None
    try:
        return Explanation(
            tuple(OpRecord(**op) for op in saved["ops"]),
            tuple(saved["notes"]),
            tuple(Finding(**finding) for finding in saved["warnings"]),
        )
    except (KeyError, TypeError):  # written by hand
        return None


def restore_seen(model: GraphModule) -> None:
    """Put what calibration saw back on the quantize ops that have the very qparams that they had."""
    saved = (_saved(model) or {}).get("seen", {})
    for name, node in _quantizes(model) if saved else ():
        if SEEN_KEY in node.meta:
            continue
        for scale, zero_point, low, high, clipped, bulk, observer in saved.get(name, ()):
            if (scale, zero_point) == node.args[1:3]:
                ends = (torch.tensor(low), torch.tensor(high))
                seen = Seen(low=ends[0], high=ends[1], clipped=clipped, bulk=bulk, observer=observer)
                for each in (node, *node.users):
                    each.meta[SEEN_KEY] = seen
                break


def _quantizes(model: GraphModule) -> Iterator[tuple[str, Node]]:
    """Yield the quantize ops with a name for what they quantize that outlives an export: ops keep theirs."""
    for path, graph in graphs_of(model):
        places: dict[Node, int] = {}
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                places[node] = len(places)
            elif is_quantize(node):
                source = node.all_input_nodes[0]
                yield f"{path}/{places.get(source, source.name)}", node


def _saved(model: GraphModule) -> dict[str, Any] | None:
    custom = model.meta.get(_CUSTOM)
    saved = custom.get(_KEY) if isinstance(custom, dict) else None
    return saved if isinstance(saved, dict) and saved.get("version") == _VERSION else None


def _plain(record: OpRecord | Finding) -> dict[str, Any]:
    """Return the fields of a record that are not their defaults."""
    values = ((field, getattr(record, field.name)) for field in dataclasses.fields(record))
    return {
        field.name: value for field, value in values if field.default is dataclasses.MISSING or value != field.default
    }
