"""The command that finds out which accuracy tools help a model: `tune`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from quantizer_sdk.console import Stages, readable_errors
from quantizer_sdk.model_options import (
    BatchSizeOption,
    DataOption,
    MeanOption,
    ResizeOption,
    SamplesOption,
    StdOption,
    choose_target,
    open_model,
    open_samples,
    quiet_libraries,
)

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from quantizer_sdk.samples import Samples

__all__ = ["register", "run_tune"]


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(name="tune")(tune)


def tune(
    model: Annotated[Path, typer.Argument(help="A float model saved with torch.export.save.")],
    *,
    data: DataOption,
    budget: Annotated[float, typer.Option(min=1, help="Seconds that trials may take.")] = 300,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="An installed backend, such as xnnpack or x86.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="The kind of file that it will be: pte, onnx or pt2.")] = None,
    config: Annotated[Path | None, typer.Option(help="Rules for the quantizer, .toml or .json.")] = None,
    samples: SamplesOption = 256,
    batch_size: BatchSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try accuracy tools that need no training, and print what each is worth on samples held out.

    `quantize --tune SECONDS` does the same and writes the best model.
    """
    with readable_errors(), quiet_libraries():
        target = choose_target(backend, to, None)
        with Stages()(f"reading {model.name} and its samples"):
            opened = open_model(model)
            read = open_samples(data, opened, samples=samples, batch_size=batch_size, mean=mean, std=std, resize=resize)

        make = functools.partial(target.configured, config)
        make()  # a mistake in the file is told before the work
        result = run_tune(opened.model, make, read, seconds=budget)
        typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else str(result))


def run_tune(model: GraphModule, make_quantizer: Callable[[], Any], samples: Samples, *, seconds: float) -> Any:
    """Tune with a progress bar on stderr; see `quantizer_sdk.tune`."""
    from quantizer_sdk import tune as tune_model

    return tune_model(model, make_quantizer, samples.batches, budget_s=seconds, progress=_bar)


def _bar(trials: Iterable[Any]) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as progress:
        yield from progress.track(list(trials), description="tuning")
