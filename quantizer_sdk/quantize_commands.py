"""The command that quantizes a user's model and writes it for a runtime: `quantize`."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantizer_sdk.console import Stages, counted, readable_errors
from quantizer_sdk.model_options import (
    BatchSizeOption,
    DataOption,
    MeanOption,
    OpenModel,
    ResizeOption,
    SamplesOption,
    StdOption,
    Target,
    choose_target,
    open_model,
    open_samples,
    quiet_libraries,
)

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from quantizer_sdk import Explanation, MixedPrecision
    from quantizer_sdk.backend import FileReport
    from quantizer_sdk.model_report import Card
    from quantizer_sdk.samples import Samples

__all__ = ["register"]

_ACCURACY, _OUTPUT = "Accuracy", "Output"
_FLOAT_OPS, _REPORT_LINES = 8, 24  # printed without --verbose


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(name="quantize")(quantize)


@dataclass(slots=True)
class _Result:
    """What the command found out and made; `float_model` is the user's, or what tuning made of it."""

    opened: OpenModel
    target: Target
    samples: Samples
    evaluation: Samples
    quantizer: Any
    float_model: GraphModule
    converted: GraphModule
    sqnr: float
    explanation: Explanation
    mixed: MixedPrecision | None
    tuned: Any
    notes: list[str] = field(default_factory=list)


def quantize(
    model: Annotated[Path, typer.Argument(help="A float model saved with torch.export.save.")],
    *,
    data: DataOption,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="An installed backend, such as xnnpack or x86.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="Kind of file: pte for ExecuTorch, onnx for ONNX Runtime, pt2 for PyTorch.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write. (default: MODEL.int8.KIND beside it)")
    ] = None,
    samples: SamplesOption = 256,
    batch_size: BatchSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Rules for the quantizer, .toml or .json.", rich_help_panel=_ACCURACY),
    ] = None,
    tune: Annotated[
        float | None,
        typer.Option(min=1, help="Try accuracy tools for so many seconds, keep the best.", rich_help_panel=_ACCURACY),
    ] = None,
    sqnr: Annotated[
        float | None,
        typer.Option(
            help="Signal to noise to reach, dB: layers are left float or given other configs until it is.",
            rich_help_panel=_ACCURACY,
        ),
    ] = None,
    max_float_layers: Annotated[
        int | None,
        typer.Option(min=0, help="How many layers may be left float for accuracy.", rich_help_panel=_ACCURACY),
    ] = None,
    save_config: Annotated[
        Path | None,
        typer.Option(help="Write the rules that were used, .toml or .json.", rich_help_panel=_OUTPUT),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write one HTML file that says all about it.", rich_help_panel=_OUTPUT)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=_OUTPUT)] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print every op and kernel.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Quantize a model of your own, and write it for a runtime.

    Of five batches of samples one is held out, and measures what quantizing costs; the others calibrate.

    Exit status: 0 if the file is written, 1 if the model cannot be quantized as wanted, 2 for a wrong argument or file.
    """
    with readable_errors(), quiet_libraries() as warned:
        target = choose_target(backend, to, out)
        path = out if out is not None else model.with_suffix(f".int8{target.suffix}")
        for file, option in ((path, "--out"), (save_config, "--save-config"), (report, "--report")):
            _check_folder(file, option)
        if path.exists() and model.exists() and path.samefile(model):
            raise typer.BadParameter(f"{path} is the model itself", param_hint="--out")
        stage = Stages()
        with stage(f"reading {model.name} and its samples"):
            opened = open_model(model)
            make = functools.partial(target.configured, config)
            make()  # a mistake in the file is told before the work
            read = open_samples(data, opened, samples=samples, batch_size=batch_size, mean=mean, std=std, resize=resize)
        result = _quantize(opened, target, make, read, stage, tune=tune, sqnr=sqnr, max_float_layers=max_float_layers)
        with stage(f"writing {path.name} for {target.runtime}"):
            written = target.save(opened, result.converted, result.samples.batches[0], path)
        if save_config is not None:
            from quantizer_sdk import save_config as write_config

            write_config(result.quantizer, save_config)
        if report is not None:
            with stage(f"writing {report.name}"):
                _write_report(report, result, quantized=path.stat().st_size, plain=model.stat().st_size)
    result.notes += [note for note in warned if note not in result.notes]
    _print(result, path, written, as_json=as_json, verbose=verbose)


def _check_folder(path: Path | None, option: str) -> None:
    """Find out before the work whether a file can be written."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}", param_hint=option)
    if path is not None and path.is_dir():
        raise typer.BadParameter(f"{path} is a folder", param_hint=option)


def _quantize(
    opened: OpenModel,
    target: Target,
    make: Callable[[], Any],
    read: Samples,
    stage: Stages,
    *,
    tune: float | None,
    sqnr: float | None,
    max_float_layers: int | None,
) -> _Result:
    """Tune, find rules, calibrate, convert and measure."""
    from quantizer_sdk import calibrate, convert_pt2e, explain, prepare_pt2e
    from quantizer_sdk.mixed.outputs import Reference

    samples, evaluation = read.held_out()
    model, quantizer, tuned, mixed = opened.model, make(), None, None
    if tune is not None:
        from quantizer_sdk.tune_commands import run_tune

        tuned = run_tune(model, make, samples, seconds=tune)
        model, quantizer = tuned.model, tuned.quantizer
    if sqnr is not None or max_float_layers is not None:
        with stage("finding rules") as tell:
            mixed = _find_rules(model, quantizer, samples, evaluation, sqnr, max_float_layers, tell)
        quantizer = mixed.quantizer
    with stage(f"calibrating with {len(samples.batches)} batches of {samples.batch_size}") as tell:
        prepared = prepare_pt2e(model, quantizer)
        calibrate(prepared, samples.batches, progress=counted(tell))
        converted = convert_pt2e(prepared)
    with stage("measuring"):
        reference = Reference.of(opened.model, evaluation.batches)
        measured = reference.sqnr(reference.errors(converted, evaluation.batches))
    explanation = explain(converted)
    return _Result(
        opened=opened,
        target=target,
        samples=samples,
        evaluation=evaluation,
        quantizer=quantizer,
        float_model=model,
        converted=converted,
        sqnr=measured,
        explanation=explanation,
        mixed=mixed,
        tuned=tuned,
        notes=[*read.notes, *explanation.notes],
    )


def _find_rules(
    model: GraphModule,
    quantizer: Any,
    samples: Samples,
    evaluation: Samples,
    sqnr: float | None,
    max_float_layers: int | None,
    tell: Callable[[str], None],
) -> MixedPrecision:
    from quantizer_sdk import Budget, BudgetError, mixed_precision

    budget = Budget(sqnr=sqnr, max_float_layers=max_float_layers)
    try:
        return mixed_precision(model, quantizer, samples.batches, budget, evaluation=evaluation.batches, progress=tell)
    except BudgetError as e:
        if e.closest is not None:
            typer.echo(str(e.closest), err=True)
        raise


def _write_report(path: Path, result: _Result, *, quantized: int, plain: int) -> None:
    """Write the HTML report; sizes of files are in bytes."""
    from quantizer_sdk import compare, sensitivity
    from quantizer_sdk.model_report import write_report

    batches = result.evaluation.batches
    gains = sensitivity(result.float_model, result.quantizer, result.samples.batches, evaluation=batches)
    write_report(
        path,
        model=result.converted,
        explanation=result.explanation,
        comparison=compare(result.float_model, result.converted, batches, histograms=True),
        sensitivity=gains,
        title=result.opened.name,
        cards=_cards(result, quantized, plain),
        facts=_facts(result),
    )


def _cards(result: _Result, quantized: int, plain: int) -> list[Card]:
    from quantizer_sdk.decibels import in_db
    from quantizer_sdk.model_report import Card

    cards = [Card(title="Size of the file", value=f"{quantized / 1e6:.2f} MB", note=f"float: {plain / 1e6:.2f} MB")]
    if result.tuned is not None:  # layers are compared with the model that tuning made, which is what was quantized
        cards.append(Card(title="Against the given model", value=in_db(result.sqnr), note="with what tuning changed"))
    return cards


def _facts(result: _Result) -> dict[str, str]:
    same = result.samples is result.evaluation
    return {
        "written for": result.target.runtime,
        "calibrated on": _amount(result.samples),
        "compared on": "the same" if same else f"{_amount(result.evaluation)}, held out",
        "quantizer": type(result.quantizer).__name__,
        "torch": importlib.metadata.version("torch"),
        "quantizer_sdk": importlib.metadata.version("quantizer-sdk"),
    }


def _amount(samples: Samples) -> str:
    return f"{len(samples.batches)} batches of {samples.batch_size}"


def _print(result: _Result, path: Path, written: FileReport, *, as_json: bool, verbose: bool) -> None:
    size = path.stat().st_size
    held = len(result.evaluation.batches)
    same = result.samples is result.evaluation
    on = "the samples that calibrated" if same else f"{held} batch{'es' if held > 1 else ''} held out"
    if as_json:
        found = {
            "model": result.opened.name,
            "file": str(path),
            "size": size,
            "backend": result.target.backend,
            "runtime": result.target.runtime,
            "sqnr": result.sqnr,
            "measured_on": on,
            "batches": len(result.samples.batches),
            "batch_size": result.samples.batch_size,
            "notes": result.notes,
            "explanation": json.loads(result.explanation.to_json()),
            "mixed_precision": None if result.mixed is None else result.mixed.to_dict(),
            "program": json.loads(written.to_json()),
        }
        typer.echo(json.dumps(found, indent=2))
        return
    for note in result.notes:
        typer.echo(f"note: {note}")
    if result.tuned is not None:
        typer.echo(str(result.tuned))
    if result.mixed is not None:
        typer.echo(str(result.mixed))
    typer.echo(_summary(result.explanation, verbose=verbose))
    typer.echo(f"signal to noise: {result.sqnr:.1f} dB on {on}")
    lines = str(written).splitlines()
    shown = lines if verbose else lines[:_REPORT_LINES]
    typer.echo("\n".join((f"{path}: {size:,} bytes for {result.target.runtime}", *shown)))
    if len(shown) < len(lines):
        typer.echo(f"  ... and {len(lines) - len(shown)} more lines: quantizer-sdk inspect {path}")


def _summary(explanation: Explanation, *, verbose: bool) -> str:
    if verbose:
        return str(explanation)
    lines = [str(explanation).splitlines()[0]]
    floats = explanation.float_ops()
    lines += [f"  float: {op.node} ({op.op}): {op.reason}" for op in floats[:_FLOAT_OPS]]
    if len(floats) > _FLOAT_OPS:
        lines.append(f"  ... and {len(floats) - _FLOAT_OPS} more float ops: --verbose names them")
    return "\n".join(lines)
