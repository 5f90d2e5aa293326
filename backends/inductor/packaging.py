"""placeholder"""

from __future__ import annotations

from typing import Any

__all__ = ["write_package"]


def write_package(*a: Any, **k: Any) -> None:
    raise NotImplementedError
