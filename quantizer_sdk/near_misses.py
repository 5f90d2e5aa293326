"""Names that are written much like one that was not found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["close_names", "close_paths"]

_MOST = 3
_ALIKE = 0.75  # of two names, as difflib counts it: 1 for equal ones
_NEARLY = 0.05  # what is less alike than the likeliest by more than that is not meant


def close_paths(path: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the known module paths that a path may stand for, the likeliest first, at most three.

    One that the path ends in, or that ends in it, is first, for a wrapper around a model puts a name before all paths;
    unless it is but a small part.
    """
    known = sorted(name for name in known if name)
    nested = [name for name in known if name.endswith(f".{path}") or path.endswith(f".{name}")]
    # The longer the shared end, the likelier: "model.features.3.conv" is 'features.3.conv' before it is 'conv'.
    nested.sort(key=lambda name: -min(len(name), len(path)))
    alike = _alike(path, known)
    large = [name for name in nested[:1] if min(len(name), len(path)) * 2 >= max(len(name), len(path))]
    return tuple(dict.fromkeys((*large, *alike, *nested[:1])))[:_MOST]


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
    return tuple(other for found in _alike(_part(name, part), parts) for other in parts[found])[:_MOST]


def _alike(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that are nearly as much like this one as the likeliest is, that one first."""
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(name)
    ratios: dict[str, float] = {}
    for other in known:
        matcher.set_seq1(other)
        if matcher.real_quick_ratio() >= _ALIKE and matcher.quick_ratio() >= _ALIKE:
            ratios[other] = matcher.ratio()
    least = max(_ALIKE, max(ratios.values(), default=0.0) - _NEARLY)
    likely = [other for other, ratio in ratios.items() if ratio >= least]
    letters = sorted(name)  # swapped ones make no other
    return sorted(likely, key=lambda other: (sorted(other) != letters, -ratios[other]))


def _part(name: str, part: int) -> str:
    parts = name.split(".")
    return parts[part] if -len(parts) <= part < len(parts) else name
