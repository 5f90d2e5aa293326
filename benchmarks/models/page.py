"""The part of a page that a script writes, between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["write_between"]


def write_between(page: Path, mark: str, lines: Sequence[str]) -> None:
    """Put lines in the place of what stands between two equal marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(mark)
    _, _, after = rest.partition(mark)
    page.write_text(f"{before}{mark}\n{chr(10).join(lines)}\n{mark}{after}", encoding="utf-8")
