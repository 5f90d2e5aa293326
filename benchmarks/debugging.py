"""The numeric debugger held to its bars: planted faults found, and what `compare` costs beside running both models.

Exits with 1, and says which, if a bar is missed.

    python benchmarks/debugging.py --models resnet18
    python benchmarks/debugging.py --write
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from models.apart import environment, measured_apart
from models.debugger_cost import IMAGES, MODEL
from models.page import write_between
from models.planted import BACKENDS, FAULTS, MODELS
from rich.console import Console
from tqdm import tqdm

_PAGE = Path(__file__).parents[1] / "docs" / "debugging.md"
_MARK = "<!-- Written by benchmarks/debugging.py -->"
_SLOWER, _MORE = 3.0, 300.0
_COSTS = ("time", "both", "compare", "without blame")

Cases = list[dict[str, Any]]


def _lines(cases: Cases, costs: dict[str, dict[str, float]] | None, machine: dict[str, str]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine.items())
    lines = [f"`python benchmarks/debugging.py --write` ({versions}; one thread, CPU time):", ""]
    lines += [
        "| model | quantizer | planted fault | in | found first | blame | next |",
        "|---|---|---|---|---|---:|---:|",
    ]
    for case in cases:
        shares = ["" if case[key] is None else f"{100 * case[key]:.0f} %" for key in ("blame", "next")]
        found = case["found"] if case["hit"] else f"**{case['found'] or 'nothing'}**"
        cells = (case["model"], case["backend"], case["fault"], case["planted"], found, *shares)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{sum(case['hit'] for case in cases)} of {len(cases)} found."]
    if costs is not None:
        seconds, both = costs["time"], costs["both"]["both"]
        lines += ["", f"| {MODEL}, {IMAGES} images | time | peak memory |", "|---|---:|---:|"]
        for name in ("both", "compare", "without blame"):
            title = "both models run" if name == "both" else "compare" if name == "compare" else "compare(blame=False)"
            more = costs[name][name] - both
            ratio = seconds[name] / seconds["both"]
            lines.append(f"| {title} | {ratio:.2f}x | {f'{more:+.0f} MB' if name != 'both' else f'{both:.0f} MB'} |")
    return lines


def _missed(cases: Cases, costs: dict[str, dict[str, float]] | None) -> Iterator[str]:
    for case in cases:
        if not case["hit"]:
            yield f"{case['model']} on {case['backend']}: {case['fault']} in {case['planted']}, found {case['found']}"
    if costs is not None:
        ratio = costs["time"]["compare"] / costs["time"]["both"]
        if ratio > _SLOWER:
            yield f"compare takes {ratio:.2f}x the time of running both models, above {_SLOWER}x"
        more = costs["compare"]["compare"] - costs["both"]["both"]
        if more > _MORE:
            yield f"compare takes {more:.0f} MB more than running both models, above {_MORE:.0f} MB"


def main(
    models: Annotated[
        list[str] | None, typer.Option(help="Names of models to plant faults in; all by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Timed rounds; 0 leaves the costs out.")] = 5,
    draw: Annotated[int, typer.Option(help="Another number plants the faults in other layers.")] = 0,
    write: Annotated[bool, typer.Option("--write", help="Write the tables in docs/debugging.md.")] = False,
) -> None:
    """Measure, print the tables, and hold them to the bars."""
    if unknown := [name for name in models or () if name not in MODELS]:
        raise typer.BadParameter(f"no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    if write and (models or not rounds or draw):
        raise typer.BadParameter("--write takes a whole run: no --models, no --rounds 0, no --draw")
    lot = ["--draw", str(draw)]
    subjects = [("models.planted", [model, backend, *lot]) for model in models or MODELS for backend in BACKENDS]
    jobs = [*subjects, *(("models.debugger_cost", [what, "--rounds", str(rounds)]) for what in _COSTS if rounds)]
    cases: Cases = []
    costs: dict[str, dict[str, float]] = {}
    failures: list[str] = []
    with tqdm(jobs, unit="job") as progress:
        for module, arguments in progress:
            progress.set_postfix_str(" ".join(arguments))
            found, death = measured_apart(module, arguments, patience=1800)
            if found is None:
                failures.append(f"{' '.join(arguments)}: {death}")
            elif module == "models.planted":
                cases += found["cases"]
            else:
                costs[arguments[0]] = found
    whole = costs if len(costs) == len(_COSTS) else None
    lines = _lines(cases, whole, environment("torch"))
    console = Console(width=200, highlight=False)
    console.print("\n".join(lines), markup=False)
    if write and not failures:
        write_between(_PAGE, _MARK, lines)
    shortfalls = [*failures, *_missed(cases, whole)]
    if len(cases) != len(subjects) * len(FAULTS):
        shortfalls.append(f"{len(cases)} cases instead of {len(subjects) * len(FAULTS)}")
    for reason in shortfalls:
        console.print("[red]bar missed:[/red]", end=" ")
        console.print(reason, markup=False)
    if not shortfalls:
        console.print("[green]all bars met[/green]")
    raise typer.Exit(bool(shortfalls))


if __name__ == "__main__":
    typer.run(main)
