"""The command that says where two models part: `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantizer_sdk.console import Stages, counted, readable_errors
from quantizer_sdk.model_options import (
    BatchSizeOption,
    DataOption,
    MeanOption,
    ResizeOption,
    SamplesOption,
    StdOption,
    open_model,
    open_samples,
    quiet_libraries,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(name="compare")(compare)


def compare(
    float_model: Annotated[Path, typer.Argument(help="The float model, saved with torch.export.save.")],
    quantized: Annotated[Path, typer.Argument(help="What `quantize --to pt2` made of it.")],
    *,
    data: DataOption,
    samples: SamplesOption = 64,
    batch_size: BatchSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a bar for each layer into this picture, .png.")] = None,
) -> None:
    """Say layer by layer how far a quantized model is from the float one, and which layers are to blame."""
    with readable_errors(), quiet_libraries():
        from quantizer_sdk import compare as compare_models

        if plot is not None and not plot.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {plot.parent}", param_hint="--plot")
        stage = Stages()
        with stage("reading the models and the samples"):
            reference, other = open_model(float_model), open_model(quantized)
            read = open_samples(
                data, reference, samples=samples, batch_size=batch_size, mean=mean, std=std, resize=resize
            )
        with stage(f"comparing on {len(read.batches)} batches of {read.batch_size}") as tell:
            comparison = compare_models(reference.model, other.model, read.batches, progress=counted(tell))
        if plot is not None:
            comparison.plot(plot)
        typer.echo(comparison.to_json() if as_json else str(comparison))
