"""The commands of `quantizer-sdk`, as a typer app."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from quantizer_sdk import compare_commands, conform_commands, quantize_commands, scaffold_commands, tune_commands
from quantizer_sdk.console import Stages, readable_errors

__all__ = ["app"]

app = typer.Typer(
    help="Quantize exported PyTorch models for a backend's integer kernels.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_show_locals=False,
)

quantize_commands.register(app)
compare_commands.register(app)
tune_commands.register(app)
conform_commands.register(app)
scaffold_commands.register(app)

_BackendOption = Annotated[str, typer.Option(help="Name of an installed backend.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quantizer-sdk {importlib.metadata.version('quantizer-sdk')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def demo(
    *,
    backend: _BackendOption = "xnnpack",
    out: Annotated[Path | None, typer.Option(help="Folder for the programs, the figures and the picture.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Measure the backend's peer in the same run.")] = False,
    calibration_images: Annotated[int, typer.Option(min=1, help="How many of the images calibrate.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds of the latency measurement.")] = 100,
    model: Annotated[
        Path | None,
        typer.Option(help="A classifier saved with torch.export.save, preprocessed as EfficientNet-Lite0 is."),
    ] = None,
) -> None:
    """Quantize EfficientNet-Lite0, run it on the backend's kernels, and print what that costs and gains."""
    with readable_errors():
        from quantizer_sdk.backend import find_backend
        from quantizer_sdk.debug.figure import require_matplotlib
        from quantizer_sdk.demo.plot import plot_layers
        from quantizer_sdk.demo.run import run_demo
        from quantizer_sdk.demo.table import render, to_json
        from quantizer_sdk.exported_file import load_exported

        if out is not None:
            _make_folder(out)
            require_matplotlib()
        result = run_demo(
            find_backend(backend),
            compare=compare,
            calibration_images=calibration_images,
            repeats=repeats,
            out=out,
            program=None if model is None else load_exported(model),
            name="EfficientNet-Lite0" if model is None else model.name,
            stage=Stages(),
        )
        Console().print(render(result))
        if out is not None:
            (out / "demo.json").write_text(to_json(result), encoding="utf-8")
            plot_layers(result, out / "layers.png")
            typer.echo(f"wrote the programs (*.pte), demo.json and layers.png to {out}")


@app.command()
def explain(
    path: Annotated[Path, typer.Argument(help="A model saved with torch.export.save.")],
    *,
    backend: _BackendOption = "xnnpack",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with a table to search and sort to this file.")
    ] = None,
) -> None:
    """Say what the backend's quantizer would make of each op of a model, and why not; needs no data.

    Of a quantized model it says what became of its ops.
    """
    with readable_errors():
        from quantizer_sdk import AlreadyConvertedError
        from quantizer_sdk import explain as explain_model
        from quantizer_sdk.backend import find_backend
        from quantizer_sdk.exported_file import load_exported

        quantizer, model = find_backend(backend).quantizer(), load_exported(path).module()
        try:
            explanation = explain_model(model, quantizer=quantizer)
        except AlreadyConvertedError:
            explanation = explain_model(model)
        if html is not None:
            _write(html, explanation.to_html(f"{path.name} on {backend}"), "--html")
        typer.echo(explanation.to_json() if as_json else str(explanation))


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A program of any producer, such as model.onnx or model.pte, or a .pt2 archive.")
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say of each op of a program's file whether the runtime computes it on integers, and else why not.

    Of a .pt2 archive it says what is quantized; what a backend would make of a float one says explain.
    """
    with readable_errors():
        from quantizer_sdk.backend import inspect_file

        report = inspect_file(path)
        typer.echo(report.to_json() if as_json else str(report))


def _write(path: Path, text: str, option: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise typer.BadParameter(f"cannot write to {path}: {e.strerror}", param_hint=option) from e


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise typer.BadParameter(f"cannot write to {path}: {e.strerror}", param_hint="--out") from e
