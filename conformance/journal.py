"""A run's outcomes on disk as they come, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quantizer_sdk.conformance.outcome import Outcome, Status

__all__ = ["Journal"]


class Journal:
    """A file of JSON lines: what is run, then an outcome each.

    Args:
        path: The file.
        header: What the run is of: backend, versions, seed, selection. A file with another header is begun anew.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self._path = path
        self._header = json.dumps(header, sort_keys=True)

    def read(self) -> dict[str, Outcome]:
        """Return the outcomes of an interrupted run of the same kind by id; begin the file where there is none."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        if not lines or lines[0] != self._header:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self._header + "\n", encoding="utf-8")
            return {}
        found = {}
        for line in lines[1:]:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the line that was being written when the run was stopped
                break
            found[entry["id"]] = Outcome(**{**entry, "status": Status(entry["status"])})
        kept = [json.dumps(_entry(outcome)) for outcome in found.values()]
        self._path.write_text("\n".join([self._header, *kept, ""]), encoding="utf-8")
        return found

    def write(self, outcomes: Iterable[Outcome]) -> None:
        """Append outcomes."""
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(_entry(outcome)) + "\n" for outcome in outcomes)

    def remove(self) -> None:
        """Delete the file: the run is over."""
        self._path.unlink(missing_ok=True)


def _entry(outcome: Outcome) -> dict[str, Any]:
    return {**dataclasses.asdict(outcome), "status": outcome.status.value}
