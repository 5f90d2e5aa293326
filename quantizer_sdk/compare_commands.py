"""The command that says where two models part: `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantizer_sdk.console import Stages, readable_errors
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

if TYPE_CHECKING:
    from torch.fx import GraphModule

__all__ = ["register", "run_compare"]


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
        if plot is not None and not plot.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {plot.parent}", param_hint="--plot")
        stage = Stages()
        with stage("reading the models and the samples"):
            reference, other = open_model(float_model), open_model(quantized)
            read = open_samples(
                data, reference, samples=samples, batch_size=batch_size, mean=mean, std=std, resize=resize
            )
        with stage(f"comparing on {len(read.batches)} batches of {read.batch_size}"):
            comparison = run_compare(reference.model, other.model, read.batches)
        if plot is not None:
            comparison.plot(plot)
        typer.echo(comparison.to_json() if as_json else str(comparison))


def run_compare(
    float_model: GraphModule, quantized: GraphModule, batches: Sequence[Any], *, histograms: bool = False
) -> Any:
    """Compare two models; see `quantizer_sdk.compare`."""
    from quantizer_sdk import compare as compare_models

    return compare_models(float_model, quantized, batches, histograms=histograms)
