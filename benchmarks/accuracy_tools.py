"""What each accuracy tool does, alone and as `tune` combines them, to EfficientNet-Lite0 and MiniLM.

Exits with 1, and says which, if a bar is missed.

    python benchmarks/accuracy_tools.py --models efficientnet_lite0
    python benchmarks/accuracy_tools.py --write
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from models.accuracy import SUBJECTS
from models.apart import environment, measured_apart
from models.page import write_between
from rich.console import Console
from tqdm import tqdm

_PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
_MARK = "<!-- Written by benchmarks/accuracy_tools.py -->"
_PATIENCE = 3600


def _lines(results: dict[str, dict[str, Any]], machine: dict[str, str]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine.items())
    lines = [f"`python benchmarks/accuracy_tools.py --write` ({versions}; one thread):"]
    for name, figures in results.items():
        subject = SUBJECTS[name]
        unit = "dB" if subject.in_sample else "cosine"
        entry = subject.entry
        heads = ["tools", f"{unit}, {entry.calibration} to learn from", f"{unit}, {entry.held_out} held out"]
        labelled = figures["top1"] is not None
        heads += [f"top-1 of {figures['labels']} (float: {figures['top1']})"] if labelled else []
        lines += ["", f"### {_title(name)}", "", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
        for row in figures["rows"]:
            if row["learned"] is None:
                continue
            cells = [row["name"], _number(row["learned"], unit), _number(row["held_out"], unit)]
            cells += [str(row["top1"])] if labelled else []
            lines.append(f"| {' | '.join(cells)} |")
        which = "all of them, on all of them" if subject.in_sample else "the former alone, on those held out"
        floats = len(figures["left_float"])
        left = (
            f"{floats} ops left float, {len(_layers_left(name, figures)) or 'none'} of them a linear layer"
            if floats
            else "no op left float"
        )
        found = (
            f"`tune` with {which}: {_number(figures['tuned'], unit)} ({_number(figures['plain'], unit)} without tools; "
            f"by the backend's kernels {_number(figures['tuned_program'], unit)}) by {figures['best']}, with "
            f"{left}."
        )
        lines += ["", found]
    return lines


def _title(name: str) -> str:
    target = {"efficientnet_lite0": "EfficientNet-Lite0 on XNNPACK", "minilm": "MiniLM on x86, static"}
    return target.get(name, "MiniLM on x86, by token at run time")


def _number(value: float, unit: str) -> str:
    return f"{value:.1f}" if unit == "dB" else f"{value:.4f}"


def _missed(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, figures in results.items():
        bar = SUBJECTS[name].bar
        if figures["tuned"] < bar:
            yield f"{name}: {figures['tuned']:.4f} after tuning, below {bar:g}"
        if layers := _layers_left(name, figures):
            yield f"{name}: left float: {'; '.join(layers)}"


def _layers_left(name: str, figures: dict[str, Any]) -> list[str]:
    """Return the float ops that should be none: linear layers, on XNNPACK all."""
    return [op for op in figures["left_float"] if SUBJECTS[name].in_sample or op.startswith("linear")]


def main(
    models: Annotated[list[str] | None, typer.Option(help="Names of models to measure; all by default.")] = None,
    budget: Annotated[float, typer.Option(min=1, help="Seconds for each `tune`.")] = 600,
    write: Annotated[bool, typer.Option("--write", help="Write the tables in docs/accuracy.md.")] = False,
) -> None:
    """Measure, print the tables, and hold the tuned models to the bars."""
    if unknown := [name for name in models or () if name not in SUBJECTS]:
        raise typer.BadParameter(f"no model {', '.join(unknown)}; there are {'; '.join(SUBJECTS)}")
    if write and models:
        raise typer.BadParameter("--write takes a whole run: no --models")
    results: dict[str, dict[str, Any]] = {}
    deaths: dict[str, str] = {}
    with tqdm(models or SUBJECTS, unit="model") as progress:
        for name in progress:
            progress.set_postfix_str(name)
            found, death = measured_apart("models.accuracy", [name, "--budget", str(budget)], patience=_PATIENCE)
            if found is None:
                deaths[name] = death
            else:
                results[name] = found
    console = Console(width=180, highlight=False)
    lines = _lines(results, environment("torch", "executorch"))
    console.print("\n".join(lines), markup=False)
    for name, figures in results.items():
        console.print(f"\n{name}, tune:\n{figures['table']}", markup=False)
        for row in figures["rows"]:
            if row["said"]:
                console.print(f"{row['name']}: {row['said'][:300]}", markup=False)
    shortfalls = [*(f"{name}: {death}" for name, death in deaths.items()), *_missed(results)]
    if write and not deaths:
        write_between(_PAGE, _MARK, lines)
    for reason in shortfalls:
        console.print(f"[red]bar missed:[/red] {reason}")
    if not shortfalls:
        console.print("[green]all bars met[/green]")
    raise typer.Exit(bool(shortfalls))


if __name__ == "__main__":
    typer.run(main)
