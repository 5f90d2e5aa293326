"""Measuring in a process of its own, whose death is a result; and what it was measured with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["environment", "measured_apart"]


def measured_apart(module: str, arguments: Sequence[str], *, patience: float) -> tuple[dict[str, Any] | None, str]:
    """Run a measuring module of this folder on one thread; return what it wrote, or None and how it died.

    Args:
        module: Such as "models.measure"; it writes JSON to the file behind `--json`.
        arguments: All its other arguments.
        patience: Seconds that it may take.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "result.json")
        here = Path(__file__).parents[1]
        search = os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH"))))
        try:
            run = subprocess.run(
                [sys.executable, "-m", module, *arguments, "--json", str(path)],
                env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=patience,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, f"took more than {patience:g} s"
        if run.returncode == 0:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found, ""
    how = signal.Signals(-run.returncode).name if run.returncode < 0 else f"exit code {run.returncode}"
    last = run.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
    return None, f"the process died ({how}): {last[0]}"


def environment(*packages: str) -> dict[str, str]:
    """Return the versions of packages, and the processor where it is known."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return versions
    return {**versions, "on": processor}
