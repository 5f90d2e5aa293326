"""Save a quantizer's rules to a file, and load them: TOML or JSON by the file's suffix."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from quantizer_sdk.configuration.place import Place
from quantizer_sdk.configuration.rules import read_rules, write_rules
from quantizer_sdk.configuration.values import Observers
from quantizer_sdk.errors import ConfigurationError, MissingDependencyError
from quantizer_sdk.table_quantizer import TableQuantizer

__all__ = ["load_config", "save_config"]

_SUFFIXES = (".toml", ".json")
_Table = TypeVar("_Table", bound=TableQuantizer)


def save_config(quantizer: TableQuantizer, path: str | Path, *, observers: Iterable[type] = ()) -> None:
    """Write the rules that were set on a quantizer to a file; where none was set, its default config is not written.

    Args:
        quantizer: A quantizer that a table makes.
        path: A file ending in .toml or .json.
        observers: Observer classes of your own that its configs use.

    Raises:
        ConfigurationError: The suffix is another, the file cannot be written, or a rule has no form in a file: a filter
            function, a spec that names nodes, an observer of another library.
        MissingDependencyError: tomli-w is not installed, for TOML.
    """
    target = _checked(Path(path))
    content = write_rules(_table_quantizer(quantizer), Observers(observers))
    text = json.dumps(content, indent=2) + "\n" if target.suffix == ".json" else _toml(content)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as e:
        raise ConfigurationError(f"cannot write {target}: {e.strerror}") from e


def load_config(path: str | Path, quantizer: _Table, *, observers: Iterable[type] = ()) -> _Table:
    """Set the rules of a file on a quantizer, over those that it has; all of them, or in case of an error none.

    Whether the kernels compute what the rules ask for is seen when a model is annotated, as for rules that are set by
    calls: `explain` says of each op why it stays float.

    Args:
        path: A file that `save_config` or a person wrote, ending in .toml or .json.
        quantizer: A quantizer that a table makes; it is changed.
        observers: Observer classes of your own that the file names. It can name no others but those of this library, so
            that reading a file runs no code of others.

    Returns:
        The quantizer.

    Raises:
        ConfigurationError: The file cannot be read, or holds no rules; names file and key, and what is accepted.
        MissingDependencyError: tomli is not installed, for TOML below Python 3.11.
    """
    source = _checked(Path(path))
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"cannot read {source}: {getattr(e, 'strerror', None) or e}") from e
    read_rules(Place(str(source), _parsed(source, text)), _table_quantizer(quantizer), Observers(observers))
    return quantizer


def _table_quantizer(quantizer: Any) -> TableQuantizer:
    if not isinstance(quantizer, TableQuantizer):
        raise ConfigurationError(
            f"the quantizer is a {type(quantizer).__name__}; configuration files hold the rules of a TableQuantizer"
        )
    return quantizer


def _checked(path: Path) -> Path:
    if path.suffix not in _SUFFIXES:
        raise ConfigurationError(f"{path}: configuration files end in {' or '.join(_SUFFIXES)}")
    return path


def _toml(content: dict[str, Any]) -> str:
    writer = _module("tomli_w", "writing TOML needs tomli-w")
    return str(writer.dumps(content))


def _parsed(source: Path, text: str) -> Any:
    if source.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as e:
            raise ConfigurationError(f"{source} is no JSON: {e}") from e
    reader = _module("tomllib" if sys.version_info >= (3, 11) else "tomli", "reading TOML needs tomli")
    try:
        return reader.loads(text)
    except reader.TOMLDecodeError as e:
        raise ConfigurationError(f"{source} is no TOML: {e}") from e


def _module(name: str, need: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        message = f'{need}: pip install "quantizer-sdk[cli]"; a file ending in .json needs nothing'
        raise MissingDependencyError(message) from e
