"""Whole models on x86: ours on three routes, float32, and the peers, measured side by side.

Latency, signal to noise, size, integer kernels; one process a model, in which its programs take turns on one thread.
Exits with 1, and says which, if a bar is missed.

    python benchmarks/x86_models.py --models resnet18
    python benchmarks/x86_models.py --write
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from models.apart import environment, measured_apart
from models.x86_bars import missed
from models.x86_measure import Figures, Measured
from models.x86_page import draw, markdown, render
from models.x86_programs import PROGRAMS
from models.x86_zoo import ENTRIES
from rich.console import Console
from tqdm import tqdm

_PAGE = Path(__file__).parents[1] / "docs" / "x86-models.md"
_PATIENCE = 1800
_PACKAGES = ("torch", "onnxruntime", "torchao")


def measure_apart(name: str, programs: list[str], rounds: int) -> Measured:
    """Measure a model in a process of its own; one that dies leaves an error with every program."""
    arguments = [name, "--rounds", str(rounds), "--programs", *programs]
    found, death = measured_apart("models.x86_measure", arguments, patience=_PATIENCE)
    if found is None:
        return Measured(name=name, programs={program: Figures(error=death) for program in programs})
    return Measured.from_dict(found)


def main(
    models: Annotated[list[str] | None, typer.Option(help="Names of models to measure; all by default.")] = None,
    programs: Annotated[list[str] | None, typer.Option(help="Names of programs to make; all by default.")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Timed rounds; 0 measures no latency.")] = 45,
    out: Annotated[Path | None, typer.Option("--json", help="Where to put the figures.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write docs/x86-models.md and its picture.")] = False,
) -> None:
    """Measure models, print the table, and hold it to the bars."""
    for given, known, what in ((models, ENTRIES, "model"), (programs, PROGRAMS, "program")):
        unknown = [name for name in given or () if name not in known]
        if unknown:
            raise typer.BadParameter(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")
    if write and (models or programs or not rounds):
        raise typer.BadParameter("--write takes a whole run: no --models, no --programs, no --rounds 0")
    console = Console(width=160)
    results = []
    with tqdm(list(dict.fromkeys(models or ENTRIES)), unit="model") as progress:
        for name in progress:
            progress.set_postfix_str(name)
            results.append(measure_apart(name, list(programs or PROGRAMS), rounds))
    for result in results:
        console.print(render(result))
        if result.skipped is not None:
            console.print(f"{result.name} skipped: {result.skipped}", highlight=False)
        for name, figures in result.programs.items():
            if figures.error is not None:
                console.print(f"{result.name}, {name} fails: {figures.error}", highlight=False, markup=False)
    machine = environment(*_PACKAGES)
    if out is not None:
        found = {
            "environment": machine,
            "rounds": rounds,
            "models": [dataclasses.asdict(r) for r in results],
        }
        out.write_text(json.dumps(found, indent=2), encoding="utf-8")
    if write:
        _PAGE.write_text(markdown(results, machine, rounds), encoding="utf-8")
        draw(results, _PAGE.with_suffix(".png"))
    shortfalls = [(result.name, reason) for result in results for reason in missed(result)]
    for name, reason in shortfalls:
        console.print(f"bar missed: {name}: {reason}", highlight=False, markup=False)
    if shortfalls:
        raise typer.Exit(1)
    console.print("all bars met")


if __name__ == "__main__":
    typer.run(main)
