"""Whole models on XNNPACK: ours, ExecuTorch's own quantizer, and fp32, measured side by side.

Coverage, delegation, int8 nodes, SQNR on held-out inputs, size, and latency, with one process for each model, in which
its three programs take turns. Exits with 1, and says which, if a bar is missed.

    python benchmarks/xnnpack_models.py --models mobilenet_v2 --models unet
    python benchmarks/xnnpack_models.py --write
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from models.apart import environment, measured_apart
from models.bars import missed
from models.plot import draw
from models.result import COLUMNS, Column, Result
from models.tables import markdown, render
from models.zoo import ENTRIES
from rich.console import Console
from tqdm import tqdm

_PAGE = Path(__file__).parents[1] / "docs" / "xnnpack-models.md"
_PATIENCE = 1200
_PACKAGES = ("torch", "executorch", "torchao")


def measure_apart(name: str, columns: tuple[str, ...], rounds: int) -> Result:
    """Measure a model in a process of its own.

    A process that dies takes all columns with it: they are measured again one by one, so that it shows which kills it,
    and those that do not are then measured side by side.
    """
    result, death = _attempt(name, columns, rounds)
    if result is not None:
        return result
    entry = ENTRIES[name]
    if len(columns) == 1:
        return Result(name=name, scheme=entry.scheme_name, columns={columns[0]: Column(error=death)})
    deaths = {}
    for column in columns:
        alone, reason = _attempt(name, (column,), 0)
        if alone is None:
            deaths[column] = reason
    alive = tuple(column for column in columns if column not in deaths)
    result = None
    if deaths and alive:
        result, death = _attempt(name, alive, rounds)
    if result is None:
        deaths = {column: deaths.get(column, death) for column in columns}
        result = Result(name=name, scheme=entry.scheme_name)
    result.columns = {
        column: Column(error=deaths[column]) if column in deaths else result.columns[column] for column in columns
    }
    return result


def _attempt(name: str, columns: tuple[str, ...], rounds: int) -> tuple[Result | None, str]:
    """Run the measuring process; returns its result, or None and how it died."""
    arguments = [name, "--rounds", str(rounds), "--columns", *columns]
    found, death = measured_apart("models.measure", arguments, patience=_PATIENCE)
    return None if found is None else Result.from_dict(found), death


def main(
    models: Annotated[list[str] | None, typer.Option(help="Names of models to measure; all by default.")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Timed rounds; 0 measures no latency.")] = 15,
    only_ours: Annotated[bool, typer.Option("--only-ours", help="Leave the peer out.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Where to put the figures.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write docs/xnnpack-models.md and its picture.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Where to put a picture.")] = None,
) -> None:
    """Measure models, print the table, and hold it to the bars."""
    names = list(dict.fromkeys(models or ENTRIES))
    unknown = [name for name in names if name not in ENTRIES]
    if unknown:
        raise typer.BadParameter(f"no model {', '.join(unknown)}; there are {', '.join(ENTRIES)}")
    if write and (models or only_ours or not rounds):
        raise typer.BadParameter("--write takes a whole run: no --models, no --only-ours, no --rounds 0")
    console = Console(width=190)
    columns = tuple(name for name in COLUMNS if not (only_ours and name == "peer"))
    results = []
    with tqdm(names, unit="model") as progress:
        for name in progress:
            progress.set_postfix_str(name)
            results.append(measure_apart(name, columns, rounds))
    console.print(render(results))
    for result in results:
        if result.skipped is not None:
            console.print(f"{result.name} skipped: {result.skipped}", highlight=False)
        for name, column in result.columns.items():
            if column.error is not None:
                console.print(f"{result.name}, {name} fails: {column.error}", highlight=False, markup=False)
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
    if plot is not None:
        draw(results, plot)
    shortfalls = [(result.name, reason) for result in results for reason in missed(result)]
    for name, reason in shortfalls:
        console.print(f"bar missed: {name}: {reason}", highlight=False, markup=False)
    if shortfalls:
        raise typer.Exit(1)
    console.print("all bars met")


if __name__ == "__main__":
    typer.run(main)
