"""The demo's figures as one table for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quantizer_sdk.demo.result import Column, Coverage, DemoResult, FloatOp, Layer
from quantizer_sdk.errors import MissingDependencyError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["from_json", "render", "to_json"]

_NOT_APPLICABLE = "-"
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}


def render(result: DemoResult) -> RenderableType:
    """Return what the demo prints: a row for each figure, a column for each program; below it what needs words.

    Raises:
        MissingDependencyError: rich is not installed.
    """
    try:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text
    except ImportError as e:
        raise MissingDependencyError(f'the table needs rich, but {e}: pip install "quantizer-sdk[cli]"') from e

    table = Table(
        title=f"{result.model} on {result.backend}\n{result.images} images, calibrated on the first "
        f"{result.calibration_images}",
    )
    table.add_column("", no_wrap=True)
    for column in result.columns:
        table.add_column(column.name, justify="right", no_wrap=True)
    for section in _sections(result):
        for label, cell in section:
            table.add_row(label, *(cell(column) for column in result.columns))
        table.add_section()
    return Group(table, *(Text(note) for note in _notes(result)))


def to_json(result: DemoResult) -> str:
    """Return the figures as strict JSON; infinite ones, which JSON has no numbers for, as "Infinity"."""
    return json.dumps(_encode(dataclasses.asdict(result)), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> DemoResult:
    """Return what `to_json` wrote.

    Raises:
        ValueError: The text is no JSON.
        KeyError: It lacks a figure.
        TypeError: It has a figure that no result has.
    """
    fields = json.loads(text)
    fields["columns"] = tuple(_column(column) for column in fields["columns"])
    fields["seconds"] = tuple((name, seconds) for name, seconds in fields["seconds"])
    return DemoResult(**fields)


Row = tuple[str, Callable[[Column], str]]


def _sections(result: DemoResult) -> list[list[Row]]:
    """Return the table's rows, in groups."""
    first = result.columns[0]

    def of_images(count: int) -> str:
        return f"{count}/{result.images}"

    return [
        [
            ("top-1, graph", lambda c: of_images(c.top1_graph)),
            ("  same class as fp32", lambda c: of_images(c.agreement_graph)),
            ("top-1, kernel", lambda c: of_images(c.top1_kernel)),
            ("  same class as fp32", lambda c: of_images(c.agreement_kernel)),
        ],
        [
            ("SQNR float → graph", lambda c: _decibels(c.sqnr_graph)),
            ("SQNR graph → kernel", lambda c: _decibels(c.sqnr_kernel)),
            ("  kernel / graph noise", lambda c: _percent(c.noise)),
            ("  the graph's own noise floor", lambda c: _percent(c.noise_floor)),
        ],
        [
            ("ops quantized", lambda c: _covered(c, lambda coverage: coverage.quantized)),
            ("ops sharing qparams", lambda c: _covered(c, lambda coverage: coverage.shared)),
            ("ops folded away", lambda c: _covered(c, lambda coverage: coverage.folded)),
            ("ops left float", lambda c: _covered(c, lambda coverage: len(coverage.left_float))),
        ],
        [
            ("delegated subgraphs", lambda c: str(c.subgraphs)),
            ("delegated nodes", lambda c: str(c.delegated)),
            ("non-delegated nodes", lambda c: str(len(c.non_delegated))),
            ("integer kernel nodes", lambda c: str(c.integer_kernels)),
            ("float kernel nodes", lambda c: str(c.float_kernels)),
            ("converting kernel nodes", lambda c: str(c.conversions)),
        ],
        [
            ("program size", lambda c: f"{c.size / 1e6:.2f} MB"),
            ("  against fp32", lambda c: f"{100 * c.size / first.size:.0f} %"),
            ("latency at batch 1", lambda c: f"{c.latency:.2f} ms"),
            ("  speed-up over fp32", lambda c: f"{first.latency / c.latency:.2f}x"),
        ],
    ]


def _notes(result: DemoResult) -> list[str]:
    """Return what the figures need explained: every op left float with its reason, what was not delegated."""
    notes = [
        "SQNR: of the logits, over all images. Kernel / graph noise: power of graph → kernel over float → graph.",
        "Noise floor: the same for the graph against itself on other float kernels (oneDNN off).",
        f"Latency: median of {result.repeats} rounds, the programs run in turn.",
    ]
    for column in result.columns:
        if column.non_delegated:
            counted = (f"{column.non_delegated.count(name)} {name}" for name in dict.fromkeys(column.non_delegated))
            notes.append(f"Not delegated in {column.name}: {', '.join(counted)}.")
        if column.coverage is not None:
            notes += [
                f"Left float in {column.name}: {op.node} ({op.op}): {op.reason}" for op in column.coverage.left_float
            ]
    return notes


def _decibels(value: float | None) -> str:
    """Write a ratio in dB."""
    if value is None:
        return _NOT_APPLICABLE
    return "identical" if value == math.inf else f"{value:.1f} dB"


def _covered(column: Column, count: Callable[[Coverage], int]) -> str:
    """Write a count of a column's coverage, if that is known."""
    return _NOT_APPLICABLE if column.coverage is None else str(count(column.coverage))


def _encode(value: Any) -> Any:
    """Make a value one that strict JSON can hold."""
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _number(value: float | str | None) -> float | None:
    """Read a figure that may be infinite or missing."""
    return _INFINITE[value] if isinstance(value, str) else value


def _column(fields: dict[str, Any]) -> Column:
    """Read a column."""
    coverage = fields["coverage"]
    if coverage is not None:
        left = tuple(FloatOp(**op) for op in coverage["left_float"])
        coverage = Coverage(**{**coverage, "left_float": left})
    numbers = {name: _number(fields[name]) for name in ("sqnr_graph", "sqnr_kernel", "noise", "noise_floor")}
    layers = tuple(Layer(**{**layer, "sqnr": _number(layer["sqnr"])}) for layer in fields["layers"])
    rest = {"coverage": coverage, "layers": layers, "non_delegated": tuple(fields["non_delegated"])}
    return Column(**{**fields, **numbers, **rest})


def _percent(value: float | None) -> str:
    return _NOT_APPLICABLE if value is None else f"{value:.3g} %"
