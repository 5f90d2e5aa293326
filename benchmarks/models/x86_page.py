"""The figures of x86 as tables on the console, as a page of Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.table import Table

from models.x86_bars import missed
from models.x86_measure import Figures, Measured

__all__ = ["draw", "markdown", "render"]

_HEADINGS = (
    "program",
    "latency",
    "vs fp32",
    "SQNR",
    "cosine",
    "kernels' noise",
    "int8",
    "float",
    "layers",
    "size",
    "made in",
)
_NONE = "-"


def render(result: Measured) -> Table:
    """Return one model's figures as a table for the console."""
    table = Table(title=result.name)
    for place, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if place else "left")
    for cells in _rows(result):
        table.add_row(*cells)
    return table


def _rows(result: Measured) -> Iterator[tuple[str, ...]]:
    """Yield a row of cells for each program."""
    for name, figures in result.programs.items():
        if figures.error is not None:
            yield (f"{name}: fails", *[_NONE] * (len(_HEADINGS) - 1))
            continue
        base = result.programs.get(f"{name.split()[0]} fp32")
        speed = None if base is None else figures.speed(base)
        yield (
            name,
            _NONE if figures.latency is None else f"{figures.latency:.3g} ms",
            _NONE if speed is None else f"{speed.median:.2f}x",
            _NONE if figures.sqnr is None else f"{figures.sqnr:.1f} dB",
            _NONE if figures.cosine is None else f"{figures.cosine:.4f}",
            _NONE if figures.kernel_noise is None else f"{figures.kernel_noise:.1f} ({figures.own_noise:.1f}) %",
            _count(figures.integer),
            _count(figures.floats),
            _NONE if figures.layers is None else f"{figures.layers - (figures.left_float or 0)} of {figures.layers}",
            _NONE if figures.size is None else f"{figures.size / 1e6:.2f} MB",
            _NONE if figures.seconds is None else f"{figures.seconds:.1f} s",
        )


def _count(value: int | None) -> str:
    return _NONE if value is None else str(value)


def markdown(results: list[Measured], environment: Mapping[str, str], rounds: int) -> str:
    """Return docs/x86-models.md."""
    versions = ", ".join(f"{name} {version}" for name, version in environment.items())
    lines = [
        "# Models on x86",
        "",
        f"Written by `python benchmarks/x86_models.py --write` ({versions}).",
        "",
        "![Speed of each model](x86-models.png)",
        "",
        "EfficientNet-Lite0 and MiniLM have their trained weights; the others have weights out of seeds, so that their",
        "figures compare programs and say nothing of a trained network's accuracy.",
        "",
        f"- **latency**: median of {rounds} rounds at batch 1, one thread, CPU time. In each, all programs of a model",
        "  run in turn, in an order of its own.",
        "- **vs fp32**: how many times as fast as float32 on the same route: the median of the rounds' ratios.",
        "- **SQNR**, **cosine**: of the program's outputs for held-out inputs, against the float model in PyTorch.",
        "- **kernels' noise**: what the kernels add to the q/dq graph, in percent of what that adds to float; in",
        "  brackets, what the same graph adds to itself on torch's other float kernels.",
        "- **int8**, **float**: kernels that run, read back from the program; conversions and moves are neither.",
        "- **layers**: convolutions and linears that are quantized.",
        "- **made in**: quantizing with calibration, lowering, and the first call.",
    ]
    for result in results:
        lines += ["", f"## {result.name}", ""]
        if result.skipped is not None:
            lines.append(f"Skipped: {result.skipped}")
            continue
        lines += [f"| {' | '.join(_HEADINGS)} |", "|---|" + "---:|" * (len(_HEADINGS) - 1)]
        lines += [f"| {' | '.join(cells)} |" for cells in _rows(result)]
        errors = [(name, figures.error) for name, figures in result.programs.items() if figures.error is not None]
        lines += ["", *(f"- {name}: `{error.replace('`', chr(39))}`" for name, error in errors)] if errors else []
    lines += _against_static(results)
    failing = [f"- {result.name}: {reason}" for result in results for reason in missed(result)]
    lines += ["", "## Bars", "", *(failing or ["All met."])]
    return "\n".join(lines) + "\n"


def _against_static(results: list[Measured]) -> list[str]:
    """Return the table of what this file is held to most closely: ONNX Runtime's own."""
    lines = [
        "",
        "## ONNX Runtime: ours against `quantize_static`",
        "",
        "Median over processes, which load the two files in either order; in brackets between which two the true one",
        "lies 19 times of 20. Convolutional models run the same convolutions and additions in both.",
        "",
        "| model | ours is as fast as | SQNR, ours | SQNR, quantize_static |",
        "|---|---:|---:|---:|",
    ]
    for result in results:
        ours, static = result.programs.get("onnx ours"), result.programs.get("onnx quantize_static")
        if ours is None or static is None or ours.sqnr is None or static.sqnr is None:
            continue
        cells = (result.name, str(result.against_static or _NONE), f"{ours.sqnr:.1f} dB", f"{static.sqnr:.1f} dB")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(results: list[Measured], path: Path) -> None:
    """Draw how many times as fast as float32 on the same route each program is."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [result for result in results if result.programs]
    names = [name for name in dict.fromkeys(n for r in shown for n in r.programs) if "fp32" not in name]
    figure, axis = plt.subplots(figsize=(11, 1 + 0.9 * len(shown)))
    height = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        ratios = [_speed(result.programs, name) for result in shown]
        axis.barh([len(shown) - 1 - i + 0.4 - place * height for i in range(len(shown))], ratios, height, label=name)
    axis.axvline(1, color="grey", linewidth=0.8)
    axis.set_yticks(range(len(shown)), [result.name for result in reversed(shown)])
    axis.set_xlabel("times as fast as fp32 on the same route")
    axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _speed(programs: dict[str, Figures], name: str) -> float:
    base, figures = programs.get(f"{name.split(maxsplit=1)[0]} fp32"), programs.get(name)
    speed = None if base is None or figures is None else figures.speed(base)
    return 0.0 if speed is None else speed.median
