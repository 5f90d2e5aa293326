"""The benchmark's figures as one table: on the console, and as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table

from models.bars import missed
from models.result import COLUMNS, Column, Result

__all__ = ["markdown", "render"]

_HEADINGS = (
    "model",
    "program",
    "ops int8",
    "float",
    "delegated",
    "outside",
    "int8 nodes",
    "float nodes",
    "SQNR",
    "size",
    "latency",
    "vs fp32",
    "vs peer",
)
_NONE = "-"


def render(results: list[Result]) -> Table:
    """Return the figures as a table for the console."""
    table = Table(title="XNNPACK: medians of interleaved rounds on one thread; SQNR on the kernels, held-out inputs")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in _HEADINGS[:2] else "right")
    for result in results:
        for cells in _rows(result):
            table.add_row(*cells)
        table.add_section()
    return table


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    """Yield a row of cells for each program."""
    if result.skipped is not None:
        yield (result.name, "skipped", *[_NONE] * (len(_HEADINGS) - 2))
    for index, (name, column) in enumerate(result.columns.items()):
        ratios = []
        for other in ("fp32", "peer"):
            latency = result.columns[other].latency if other in result.columns else None
            ratios.append(f"{latency / column.latency:.2f}x" if latency and column.latency else _NONE)
        yield (
            result.name if index == 0 else f"  {result.scheme}" if index == 1 else "",
            name if column.error is None else f"{name}: fails",
            _NONE if column.quantized is None else str(column.quantized + (column.shared or 0)),
            _NONE if column.quantized is None else str(sum(column.left_float.values())),
            _count(column.delegated),
            _NONE if column.delegated is None else str(sum(column.non_delegated.values())),
            _count(column.integer_nodes),
            _count(column.float_nodes),
            _NONE if column.sqnr is None else f"{column.sqnr:.1f} dB",
            _NONE if column.size is None else f"{column.size / 1e6:.2f} MB",
            _NONE if column.latency is None else f"{column.latency:.3g} ms",
            *ratios,
        )


def _count(value: int | None) -> str:
    return _NONE if value is None else str(value)


def markdown(results: list[Result], environment: Mapping[str, str], rounds: int) -> str:
    """Return docs/xnnpack-models.md."""
    versions = ", ".join(f"{name} {version}" for name, version in environment.items())
    lines = [
        "# Models on XNNPACK",
        "",
        f"Written by `python benchmarks/xnnpack_models.py --write` ({versions}).",
        "",
        "![Speed and SQNR of each model](xnnpack-models.png)",
        "",
        "Each model three times through the same lowering: as it is (fp32), quantized by this SDK (ours), and by",
        "ExecuTorch's own XNNPACKQuantizer on torchao's engine (peer). EfficientNet-Lite0 and CREPE have their trained",
        "weights; the other architectures have weights out of seeds, so their figures compare the quantizers and say",
        "nothing of a trained network's accuracy.",
        "",
        "- **ops int8**, **float**: the model's own ops that are quantized or move codes, and those left float.",
        "- **delegated**, **outside**: operators that XNNPACK took, and those left to the portable runtime.",
        "- **int8 nodes**, **float nodes**: XNNPACK's nodes, read back from the program; conversions are neither. Ours",
        "  clamps inside a convolution's node where the peer has a node of its own for it.",
        "- **SQNR**: of what the kernels give for 32 held-out inputs, against the float model in PyTorch; 32 others",
        "  calibrate. Of the 20 images for EfficientNet-Lite0, 12 calibrate.",
        f"- **latency**: median of {rounds} rounds at batch 1, the programs in turn, one thread, CPU time.",
        "- **vs**: how many times as fast as the other program.",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        "|---|---|" + "---:|" * (len(_HEADINGS) - 2),
    ]
    lines += [f"| {' | '.join(cell.strip() for cell in cells)} |" for result in results for cells in _rows(result)]
    for title, section in (
        ("Bars", _bars(results)),
        ("What stays float in ours, and why", _floats(results)),
        ("What fails, and what was skipped", _failures(results)),
    ):
        lines += ["", f"## {title}", "", *section]
    return "\n".join(lines) + "\n"


def _bars(results: list[Result]) -> list[str]:
    failing = [f"- {result.name}: {reason}" for result in results for reason in missed(result)]
    return failing or ["All met."]


def _floats(results: list[Result]) -> list[str]:
    lines = []
    for result in results:
        ours = result.columns.get("ours")
        if ours is not None and ours.left_float:
            lines += [f"- {result.name}", *(f"  - {count} {reason}" for reason, count in ours.left_float.items())]
    return lines or ["Nothing."]


def _failures(results: list[Result]) -> list[str]:
    lines = [f"- {result.name}: skipped: {result.skipped}" for result in results if result.skipped is not None]
    for result in results:
        for name in COLUMNS:
            column: Column | None = result.columns.get(name)
            if column is not None and column.error is not None:
                lines.append(f"- {result.name}, {name}: `{_shortened(column.error)}`")
    return lines or ["Nothing."]


def _shortened(text: str) -> str:
    text = text.replace("`", "'")
    return text if len(text) <= 300 else f"{text[:297]}..."
