"""What all commands share: errors in one line without a traceback, and the stage that runs, on stderr."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from quantizer_sdk.errors import (
    BackendError,
    ConfigurationError,
    DataError,
    InvalidSpecError,
    NotExportedError,
    QuantizerError,
    ReportError,
    ScaffoldError,
    WaiverError,
)

__all__ = ["Stages", "counted", "readable_errors"]

_USAGE = (
    *(BackendError, ConfigurationError, DataError, InvalidSpecError),
    *(NotExportedError, ReportError, ScaffoldError, WaiverError),
)


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what a user can mend into its message: exit status 2 for a wrong argument, 1 for the rest."""
    try:
        yield
    except QuantizerError as e:
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(2 if isinstance(e, _USAGE) else 1) from e


def counted(tell: Callable[[str], None]) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Return what wraps batches so that a stage says how many are done."""

    def wrap(batches: Iterable[Any]) -> Iterator[Any]:
        for number, batch in enumerate(batches):
            tell(f"{number} done")
            yield batch

    return wrap


class Stages:
    """Shows the stage that runs and, when it is over, how long it took; on stderr."""

    def __init__(self) -> None:
        # A descriptor of our own: backends may redirect the process's stderr while a program runs.
        self._console = Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8"))

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[str], None]]:
        """Show the block under this name; what it is given says what is done within the stage."""
        start = time.perf_counter()
        with self._spinner(name) if self._console.is_terminal else contextlib.nullcontext(lambda _words: None) as tell:
            yield tell
        self._console.print(f"{time.perf_counter() - start:6.1f} s  {name}", highlight=False)

    @contextlib.contextmanager
    def _spinner(self, name: str) -> Iterator[Callable[[str], None]]:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True, refresh_per_second=4) as progress:
            task = progress.add_task(name, total=None)
            yield lambda words: progress.update(task, description=f"{name}: {words}")
