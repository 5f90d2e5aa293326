"""What all commands share: a user's mistake is one line and an exit status, never a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from quantizer_sdk.errors import (
    BackendError,
    InvalidSpecError,
    NotExportedError,
    QuantizerError,
    ReportError,
    ScaffoldError,
    WaiverError,
)

__all__ = ["readable_errors"]

_USAGE = (BackendError, NotExportedError, InvalidSpecError, ReportError, ScaffoldError, WaiverError)


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what a user can mend into its message: exit status 2 for a wrong argument, 1 for the rest."""
    try:
        yield
    except QuantizerError as e:
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(2 if isinstance(e, _USAGE) else 1) from e
