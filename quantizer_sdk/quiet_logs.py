"""A library's own chatter kept off the console, with all logging settings as they were afterwards."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["quiet_logs"]


@contextlib.contextmanager
def quiet_logs(package: str, loggers: Sequence[str] = ()) -> Iterator[None]:
    """Keep deprecation warnings, and what a package logs below ERROR, off the console inside the block.

    Some packages log on the root logger and call `logging.basicConfig`, which would leave a handler on the caller's
    root logger; while the block runs, the root logger has the handler that Python falls back to anyway, so that none
    is added. Logging settings are the process's own: other threads see them too.

    Args:
        package: Records from files in a folder of this name are kept off the root logger's handlers.
        loggers: Names of loggers to keep at ERROR, of the package and of what it brings along.
    """

    def is_error_or_foreign(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or package not in Path(record.pathname).parts

    root = logging.getLogger()
    fallback = logging.lastResort if not root.handlers else None
    noisy = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in noisy]
    if fallback is not None:
        root.addHandler(fallback)
    root.addFilter(is_error_or_foreign)
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
        root.removeFilter(is_error_or_foreign)
        if fallback is not None:
            root.removeHandler(fallback)
