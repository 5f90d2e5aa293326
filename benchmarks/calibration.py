"""What calibration costs: a step of each observer, ours and torchao's, over a float32 forward; two ranks over one.

Exits with 1, and says which, if a bar is missed.

    python benchmarks/calibration.py --models efficientnet_lite0
    python benchmarks/calibration.py --write
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from models.apart import environment, measured_apart
from models.calibrating import BATCH, OURS, THEIRS
from models.page import write_between
from rich.console import Console
from tqdm import tqdm

_PAGE = Path(__file__).parents[1] / "docs" / "calibration.md"
_MARK = "<!-- Written by benchmarks/calibration.py -->"
_BARS = {"min-max": 1.3, "moving average": 1.3, "histogram": 2.0, "percentile": 2.0, "MSE": 2.0}
_TWO_RANKS = 1.7
_LOUDER = 0.05
"""dB by which a histogram of ours may fall short of torchao's: less than that is no difference."""

Figures = dict[str, dict[str, float]]


def _lines(results: dict[str, Figures], seconds: list[float] | None, machine: dict[str, str]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine.items())
    lines = [f"`python benchmarks/calibration.py --write` ({versions}; one thread, CPU time):", ""]
    heads = ["observer", *(f"{name}, batch {BATCH[name]}" for name in results)]
    lines += [f"| {' | '.join(heads)} |", "|---|" + "---:|" * len(results)]
    kinds = [*OURS, *(f"torchao's {name}" for name in THEIRS)]
    for kind in kinds:
        cells = [f"{figures[kind]['ratio']:.2f}x, {figures[kind]['sqnr']:.1f} dB" for figures in results.values()]
        lines.append(f"| {' | '.join((kind, *cells))} |")
    for name, figures in results.items():
        if (draws := int(figures["histogram"]["draws"])) > 1:
            lines += ["", f"{name} has weights out of seeds: its SQNR is the mean over {draws} draws of them."]
    if seconds is not None:
        one, two = seconds
        lines += [
            "",
            f"EfficientNet-Lite0 by histograms: {one:.0f} s on one rank, {two:.0f} s on two ({one / two:.2f}x).",
        ]
    return lines


def _missed(results: dict[str, Figures], seconds: list[float] | None) -> Iterator[str]:
    for name, figures in results.items():
        for kind, bar in _BARS.items():
            if figures[kind]["ratio"] > bar:
                yield f"{name}: a step with {kind} takes {figures[kind]['ratio']:.2f}x of float32, above {bar}x"
        ours, theirs = figures["histogram"]["sqnr"], figures["torchao's histogram"]["sqnr"]
        if ours < theirs - _LOUDER:
            yield f"{name}: {ours:.2f} dB with histograms, {theirs:.2f} dB with torchao's"
    if seconds is not None and seconds[0] / seconds[1] < _TWO_RANKS:
        yield f"two ranks are {seconds[0] / seconds[1]:.2f}x as fast as one, below {_TWO_RANKS}x"


def _seconds(ranks: int, steps: int) -> float:
    """Return how long `calibrate` takes on so many ranks of one thread."""
    here = Path(__file__).parent
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
            *(str(here / "models" / "calibrating_ranks.py"), str(steps)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout.strip().splitlines()[-1])


def main(
    models: Annotated[list[str] | None, typer.Option(help="Names of models to measure; all by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 15,
    steps: Annotated[int, typer.Option(min=0, help="Steps that one and two ranks share; 0 leaves that out.")] = 360,
    write: Annotated[bool, typer.Option("--write", help="Write the tables in docs/calibration.md.")] = False,
) -> None:
    """Measure, print the table, and hold it to the bars."""
    if unknown := [name for name in models or () if name not in BATCH]:
        raise typer.BadParameter(f"no model {', '.join(unknown)}; there are {', '.join(BATCH)}")
    if write and (models or not steps):
        raise typer.BadParameter("--write takes a whole run: no --models, no --steps 0")
    results: dict[str, Figures] = {}
    skipped: dict[str, str] = {}
    seconds: list[float] | None = None
    jobs: list[Any] = [*(models or BATCH), *((1, 2) if steps else ())]
    with tqdm(jobs, unit="job") as progress:
        for job in progress:
            progress.set_postfix_str(f"{job} ranks" if isinstance(job, int) else job)
            if isinstance(job, int):
                seconds = [*(seconds or ()), _seconds(job, steps)]
                continue
            found, death = measured_apart("models.calibrating", [job, "--rounds", str(rounds)], patience=1800)
            if found is None:
                skipped[job] = death
            else:
                results[job] = found
    lines = _lines(results, seconds, environment("torch", "torchao"))
    console = Console(width=160, highlight=False)
    console.print("\n".join(lines), markup=False)
    for name, reason in skipped.items():
        console.print(f"{name} skipped: {reason}", markup=False)
    if skipped and write:
        raise typer.Exit(1)
    if write:
        write_between(_PAGE, _MARK, lines)
    shortfalls = list(_missed(results, seconds))
    for reason in shortfalls:
        console.print(f"[red]bar missed:[/red] {reason}")
    if not shortfalls:
        console.print("[green]all bars met[/green]")
    raise typer.Exit(bool(shortfalls))


if __name__ == "__main__":
    typer.run(main)
