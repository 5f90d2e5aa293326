"""Names that are written much like one that was not found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["close_names", "close_paths"]

_MOST = 3


def close_paths(path: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the known module paths that a path may stand for, the likeliest first, at most three.

    Those that the path ends in, or that end in it, are first: a wrapper around a model puts a name before all paths.
    """
    known = sorted(name for name in known if name)
    nested = [name for name in known if name.endswith(f".{path}") or path.endswith(f".{name}")]
    # The longer the shared end, the likelier: "model.features.3.conv" is 'features.3.conv' before it is 'conv'.
    nested.sort(key=lambda name: -min(len(name), len(path)))
    similar = difflib.get_close_matches(path, known, n=_MOST, cutoff=0.75)
    return tuple(dict.fromkeys((*nested[:1], *similar)))[:_MOST]


def close_names(name: str, known: Iterable[str], part: int = -1) -> tuple[str, ...]:
    """Return the known dotted names with a part that is much like this name's, the likeliest first, at most three.

    Args:
        name: The name, such as "torch.nn.Conv2d" or "aten.conv2d.default".
        known: Where to look.
        part: The place of the part that is compared: what is before it is the same for nearly all.
    """
    parts: dict[str, list[str]] = {}
    for other in sorted(known):
        parts.setdefault(_part(other, part), []).append(other)
    similar = difflib.get_close_matches(_part(name, part), parts, n=_MOST, cutoff=0.75)
    return tuple(other for found in similar for other in parts[found])[:_MOST]


def _part(name: str, part: int) -> str:
    parts = name.split(".")
    return parts[part] if -len(parts) <= part < len(parts) else name
