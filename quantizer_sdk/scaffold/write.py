"""Writes a package for a new backend: a table quantizer, a profile, an entry point and a test that judges them."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import keyword
import re
import string
import sys
from pathlib import Path

from quantizer_sdk.backend import ENTRY_POINT_GROUP
from quantizer_sdk.errors import ScaffoldError

__all__ = ["new_backend"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FILES = {
    "pyproject.toml": "pyproject.toml.tmpl",
    "$name/__init__.py": "backend.py.tmpl",
    "tests/test_$name.py": "test.py.tmpl",
}
"""By the path of each file of the package, its template in this package's folder templates."""


def new_backend(name: str, folder: Path) -> tuple[Path, ...]:
    """Write a package to `folder / name`: one folder that pip installs, and whose backend conforms to L2.

    Args:
        name: Of the backend, its entry point and its package.
        folder: Where the package's folder goes; it is made if need be.

    Returns:
        The files.

    Raises:
        ScaffoldError: The name is none or is taken, or the folder is there already or cannot be written.
    """
    _check_name(name)
    target = folder / name
    if target.exists() or target.is_symlink():
        raise ScaffoldError(
            f"{target} exists already; expected a folder that is still to be made: choose another --out"
        )
    _check_free(name)
    words = {"name": name, "title": "".join(part.capitalize() for part in name.split("_"))}
    templates = importlib.resources.files("quantizer_sdk.scaffold").joinpath("templates")
    written = []
    try:
        for place, template in _FILES.items():
            path = target / string.Template(place).substitute(words)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = string.Template(templates.joinpath(template).read_text("utf-8")).substitute(words)
            path.write_text(text, encoding="utf-8", newline="\n")
            written.append(path)
    except OSError as e:
        raise ScaffoldError(f"cannot write {e.filename}: {e.strerror}; expected a folder that can be written") from e
    return tuple(written)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        message = f"{name!r} is no name of a Python package; expected small letters, digits and _, such as acme_npu"
        raise ScaffoldError(message)


def _check_free(name: str) -> None:
    """Refuse the name of a backend, or of a module that this package's would hide or be hidden by."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            raise ScaffoldError(f"a backend {name!r} is installed already ({point.value}); choose another name")
    found = None if name in sys.builtin_module_names else importlib.util.find_spec(name)
    if name in sys.stdlib_module_names or found is not None:
        place = "" if found is None or found.origin is None else f" ({found.origin})"
        raise ScaffoldError(f"a module {name!r} can be imported already{place}; choose another name")
