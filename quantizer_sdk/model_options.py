"""What the commands that run a model take, and what they make of it: the model, its samples, the kind of file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule

    from quantizer_sdk.backend import Backend, FileReport
    from quantizer_sdk.quantizer import Quantizer
    from quantizer_sdk.samples import ModelInput, Samples

__all__ = [
    "BatchSizeOption",
    "DataOption",
    "MeanOption",
    "OpenModel",
    "ResizeOption",
    "SamplesOption",
    "StdOption",
    "Target",
    "choose_target",
    "open_model",
    "open_samples",
    "quiet_libraries",
]

_DATA = "Data"
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        help="Samples: a .npy, .npz or .pt file, or a folder of such files or of images. Arrays are named as the "
        "model's inputs, or come in their order; their first axis counts samples.",
        rich_help_panel=_DATA,
    ),
]
SamplesOption = Annotated[
    int, typer.Option("--samples", min=1, help="Of more, so many are taken, spread evenly.", rich_help_panel=_DATA)
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(min=1, help="Samples a run, for a model with a dynamic batch. (default: 8)", rich_help_panel=_DATA),
]
MeanOption = Annotated[
    str | None,
    typer.Option(
        help="Images: taken from values 0 to 1, by channel. (default: 0.485,0.456,0.406; 0 if gray)",
        rich_help_panel=_DATA,
    ),
]
StdOption = Annotated[
    str | None,
    typer.Option(
        help="Images: what the rest is divided by. (default: 0.229,0.224,0.225; 1 if gray)", rich_help_panel=_DATA
    ),
]
ResizeOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Images: length of the shorter side before the middle is cropped. (default: the model's)",
        rich_help_panel=_DATA,
    ),
]


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model out of a file.

    Attributes:
        name: The file's name.
        original: As it was exported.
        model: The same, called by position with tensors alone.
        inputs: What it takes.
        dynamic_shapes: The sizes that may vary, for each input; None for none.
    """

    name: str
    original: GraphModule
    model: GraphModule
    inputs: tuple[ModelInput, ...]
    dynamic_shapes: Any


def open_model(path: Path) -> OpenModel:
    """Read a torch.export archive.

    Raises:
        NotExportedError: The file is none, or the model computes with an input that is no tensor.
    """
    from quantizer_sdk.call_form import called_by_position
    from quantizer_sdk.exported_file import load_exported
    from quantizer_sdk.samples import dynamic_shapes_of, inputs_of

    program = load_exported(path)
    original: Any = program.module()
    return OpenModel(path.name, original, called_by_position(original), inputs_of(program), dynamic_shapes_of(program))


def open_samples(
    path: Path,
    model: OpenModel,
    *,
    samples: int,
    batch_size: int | None,
    mean: str | None = None,
    std: str | None = None,
    resize: int | None = None,
) -> Samples:
    """Read samples for a model; arguments are the options'.

    Raises:
        DataError: There are none that the model takes.
    """
    from quantizer_sdk.samples import ImageOptions, load_samples

    options = ImageOptions(mean=_numbers(mean, "--mean"), std=_numbers(std, "--std"), resize=resize)
    return load_samples(path, model.inputs, limit=samples, batch_size=batch_size, options=options)


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as e:
        raise typer.BadParameter(f"{text!r}; expected numbers between commas", param_hint=option) from e


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a model is quantized for and written as.

    Attributes:
        backend: The backend's name.
        suffix: Of the file.
        runtime: What loads it, in words.
        quantizer: Returns a fresh quantizer.
        save: Takes the model as it was read, the converted one, example inputs and the path, and writes the file.
    """

    backend: str
    suffix: str
    runtime: str
    quantizer: Callable[[], Quantizer]
    save: Callable[[OpenModel, GraphModule, Sequence[torch.Tensor], Path], FileReport]

    def configured(self, config: Path | None) -> Any:
        """Return a fresh quantizer with the rules of a file, if there is one.

        Raises:
            ConfigurationError: The file holds no rules for it.
        """
        from quantizer_sdk.configuration import load_config

        quantizer: Any = self.quantizer()
        return quantizer if config is None else load_config(config, quantizer)


def choose_target(backend: str | None, to: str | None, out: Path | None) -> Target:
    """Find out what to write: by what the user says, else the first kind of file that the backend has.

    Without a backend it is xnnpack, or the first one installed that writes files of the kind asked for.

    Raises:
        BackendError: There is no such backend, or it writes no files of the kind.
    """
    from quantizer_sdk.backend import backend_names, find_backend
    from quantizer_sdk.errors import BackendError

    suffix = f".{to.removeprefix('.')}" if to is not None else out.suffix if out is not None else None
    names = [backend] if backend is not None else sorted(backend_names(), key=lambda name: (name != "xnnpack", name))
    known: dict[str, dict[str, Target]] = {}
    for name in names:
        known[name] = _targets(find_backend(name))
        found = known[name].get(suffix) if suffix is not None else next(iter(known[name].values()))
        if found is not None:
            return found
    others = {name: _targets(find_backend(name)) for name in backend_names() if name not in known}
    writers = [name for name, targets in others.items() if suffix in targets]
    written = "; ".join(f"backend {name!r} writes {', '.join(targets)}" for name, targets in known.items())
    hint = f"; {suffix} is written by --backend {' or '.join(writers)}" if writers else ""
    raise BackendError(f"no file of the kind {suffix or '(no suffix)'}: {written}{hint}")


def _targets(backend: Backend) -> dict[str, Target]:
    from quantizer_sdk.exported_file import ARCHIVE

    found = {}
    for part in (backend, *backend.parts):
        for suffix, kind in part.formats.items():
            found[suffix] = Target(
                backend=backend.name,
                suffix=suffix,
                runtime=kind.runtime,
                quantizer=kind.quantizer,
                save=lambda opened, model, inputs, path, save=kind.save: save(  # type: ignore[misc]
                    model, inputs, path, dynamic_shapes=opened.dynamic_shapes
                ),
            )
    found[ARCHIVE] = Target(
        backend=backend.name,
        suffix=ARCHIVE,
        runtime="torch.export.load",
        quantizer=backend.quantizer,
        save=_save_archive,
    )
    return found


def _save_archive(opened: OpenModel, model: GraphModule, inputs: Sequence[torch.Tensor], path: Path) -> FileReport:
    from quantizer_sdk.exported_file import save_exported

    save_exported(model, opened.original, inputs, path, dynamic_shapes=opened.dynamic_shapes)
    return _Archive(sum(node.op == "call_function" for node in model.graph.nodes))


@dataclass(frozen=True, slots=True)
class _Archive:
    """What there is to say of a torch.export archive: no runtime has seen it yet."""

    ops: int

    def to_json(self) -> str:
        """Return it as JSON text."""
        return json.dumps({"ops": self.ops})

    def __str__(self) -> str:
        return f"  {self.ops} ops, q/dq among them; `import quantizer_sdk`, which registers these, before it is loaded"


@contextmanager
def quiet_libraries() -> Iterator[list[str]]:
    """Keep the warnings of libraries off the console, and collect what this library warns of."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield notes
        finally:
            own = (it for it in caught if it.category.__module__.startswith("quantizer_sdk"))
            notes.extend(dict.fromkeys(str(it.message) for it in own))
