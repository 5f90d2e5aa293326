"""Reads a file that `torch.export.save` wrote, and says in one line why one cannot be read."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.export import ExportedProgram

from quantizer_sdk.errors import NotExportedError

__all__ = ["load_exported"]

# What torch's message ends with; the warnings that it means are not shown.
_REFERENCE = " Please check the warnings above for possible errors."


def load_exported(path: Path) -> ExportedProgram:
    """Load an exported program.

    Raises:
        NotExportedError: The file is missing, unreadable, or not what `torch.export.save` writes.
    """
    wanted = "expected a .pt2 file written by torch.export.save"
    try:
        with path.open("rb"):
            pass
    except OSError as e:
        raise NotExportedError(f"cannot read {path}: {e.strerror}; {wanted}") from e
    # torch logs the traceback of each reader that it tries.
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return torch.export.load(path)
    except Exception as e:  # a broken file makes its readers raise anything
        reason = str(e).strip().split("\n")[0].removesuffix(_REFERENCE)
        raise NotExportedError(f"{path} is no exported program ({type(e).__name__}: {reason}); {wanted}") from e
    finally:
        logger.setLevel(level)
