"""What was measured as docs/interop-vendors.md, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vendors.models import MODELS
from vendors.quantizers import VENDORS
from vendors.reasons import NOTES

__all__ = ["TRAINED", "cell_of", "markdown", "tables_of"]

TRAINED = ("conv_bn_relu", "residual", "depthwise", "mlp", "reused")
"""The models that are trained: the rest is left to inference, as some quantizers take long to annotate for training."""

_SAME = "="

_INTRODUCTION = """\
Every quantizer that ships in executorch and in torchao, unmodified, on this library's engine and on torchao's; and this
library's own ("ours"), which `as_torchao` brings to torchao's. `=` means: the same q/dq graph, node by node up to
names, and the same bits out of it on three batches. A word names the reason of a difference. Where it can be, it is
shown and not guessed: the cause is taken away, and the engines must agree then.
"""


def cell_of(reasons: Iterable[str]) -> str:
    """Return the words of one cell."""
    return ", ".join(reasons) or _SAME


def markdown(measured: Mapping[str, Mapping[str, Any]], versions: str) -> str:
    """Return the page.

    Args:
        measured: By vendor: "error", or "ptq" and "qat" with the reasons by model.
        versions: What ran, in words.
    """
    done = {name: measured[name] for name in VENDORS if name in measured}
    failed = {name: entry["error"] for name, entry in done.items() if entry.get("error")}
    lines = [
        "# Vendors' quantizers on two engines",
        "",
        f"Written by `python benchmarks/interop_table.py --write` ({versions}).",
        "",
        _INTRODUCTION,
        *_totals(done),
        "",
        "| Reason | What it is |",
        "|---|---|",
        *(f"| {key} | {text} |" for key, text in NOTES.items()),
        "",
        "Integer constants are compared by value: zero points of derived specs are int64 here, int32 there.",
        "",
        "## For inference",
        "",
        *_table(done, "ptq", tuple(MODELS)),
        "",
        "## Trained for three steps, then converted",
        "",
        *_table(done, "qat", TRAINED),
        "",
        "## The models",
        "",
        *(f"- `{name}`: {model.note}." for name, model in MODELS.items()),
        "",
        "## Not here",
        "",
        *(f"- **{name}**: `{error}`" for name, error in failed.items()),
        "",
        "Packages that executorch does not bring:",
        "",
        *(
            f"- {name}: `pip install {vendor.needs}`"
            for name, vendor in VENDORS.items()
            if vendor.needs and name in done and name not in failed
        ),
        "",
    ]
    return "\n".join(lines)


def _totals(done: Mapping[str, Mapping[str, Any]]) -> list[str]:
    cells = [reasons for entry in done.values() for kind in ("ptq", "qat") for reasons in entry.get(kind, {}).values()]
    same = sum(1 for reasons in cells if not reasons)
    unknown = sum(1 for reasons in cells if "?" in reasons)
    named = len(cells) - same - unknown
    return [f"{len(cells)} cells: {same} the same, {named} with a reason named, {unknown} without one."]


def _table(done: Mapping[str, Mapping[str, Any]], kind: str, models: tuple[str, ...]) -> list[str]:
    rows = [f"| Quantizer | {' | '.join(models)} |", f"|---|{'---|' * len(models)}"]
    for name, entry in done.items():
        found = entry.get(kind)
        if found:
            cells = [cell_of(found[model]) if model in found else "" for model in models]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def tables_of(page: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return the cells of a page: by kind ("ptq", "qat"), quantizer and model."""
    kinds = {"ptq": "## For inference", "qat": "## Trained"}
    result: dict[str, dict[str, dict[str, str]]] = {}
    for kind, heading in kinds.items():
        part = page.split(heading, 1)[1].split("\n## ", 1)[0]
        rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in part.splitlines() if line.startswith("| ")]
        result[kind] = {row[0]: dict(zip(rows[0][1:], row[1:], strict=False)) for row in rows[1:]}
    return result
