"""The command that starts a backend: `new-backend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantizer_sdk.console import readable_errors

__all__ = ["register"]

_NEXT = """
Judge it; as it stands it reaches L2:
  pip install --editable {folder}
  quantizer-sdk conform {name}

To reach L3, which looks at what kernels compute:
  1. Write a runner: a function lower(model, example_inputs, *, dynamic_shapes=None, integer_io=False) that compiles a
     converted model for your runtime and returns a quantizer_sdk.backend.Executable, which runs it and names its
     kernels. Put Runner(name=..., lower=lower) into BACKEND.
  2. Say in PROFILE how each family of kernels rounds (quantizer_sdk.profile.Arithmetic): the suite holds the kernels to
     every bit of it.
docs/conformance/index.md of quantizer_sdk has the whole of it; its backends xnnpack and onnxruntime are examples."""


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(name="new-backend")(new_backend)


def new_backend(
    name: Annotated[str, typer.Argument(help="Of the backend and its Python package, such as acme.")],
    *,
    out: Annotated[Path, typer.Option(help="Where the package's folder is made.")] = Path(),
) -> None:
    """Write the package of a backend of your own: it installs with pip and conforms to L2 at once."""
    with readable_errors():
        from quantizer_sdk.scaffold.write import new_backend as write

        files = write(name, out)
        typer.echo(f"wrote {', '.join(map(str, files))}")
        typer.echo(_NEXT.format(name=name, folder=_relative(out / name)))


def _relative(folder: Path) -> str:
    """Return the folder as pip takes it for one: a bare name would be that of a project."""
    return str(folder) if folder.is_absolute() else f"./{folder}"
