"""A value of a configuration file with the way to it, so that a mistake is named by file and key."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NoReturn, TypeVar

from quantizer_sdk.errors import ConfigurationError

__all__ = ["Place"]

_Kind = TypeVar("_Kind")
_WORDS = {dict: "a table", str: "a string", bool: "true or false", int: "an integer", float: "a number", list: "a list"}


class Place:
    """One value of a file.

    Args:
        file: The file's name, for errors.
        value: The value.
        keys: The way to it, from the top.
    """

    def __init__(self, file: str, value: Any, keys: tuple[str, ...] = ()) -> None:
        self.file = file
        self.value = value
        self.keys = keys

    def fail(self, found: str, accepted: str) -> NoReturn:
        """Refuse the value.

        Raises:
            ConfigurationError: Always.
        """
        where = ".".join(key if key.replace("_", "a").isalnum() else f'"{key}"' for key in self.keys)
        raise ConfigurationError(f"{self.file}: {where or 'the file'} {found}; {accepted}")

    def as_(self, kind: type[_Kind]) -> _Kind:
        """Return the value, which must be of this type; numbers may be written as integers.

        Raises:
            ConfigurationError: It is of another.
        """
        value = self.value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fail(f"is {self.value!r}", f"expected {_WORDS[kind]}")
        return value

    def one_of(self, accepted: Collection[str]) -> str:
        """Return the value, which must be one of these strings.

        Raises:
            ConfigurationError: It is none.
        """
        if not isinstance(self.value, str) or self.value not in accepted:
            self.fail(f"is {self.value!r}", f"accepted are {', '.join(sorted(accepted))}")
        return self.value

    def items(self) -> Iterator[tuple[str, Place]]:
        """Yield the entries of a table.

        Raises:
            ConfigurationError: It is no table.
        """
        for key, value in self.as_(dict).items():
            yield key, Place(self.file, value, (*self.keys, key))

    def entries(self, required: Collection[str] = (), optional: Collection[str] = ()) -> dict[str, Place]:
        """Return the entries of a table that may have these keys alone.

        Raises:
            ConfigurationError: It is no table, a key is not known, or one is missing.
        """
        found = dict(self.items())
        for key, place in found.items():
            if key not in required and key not in optional:
                place.fail("is not known", f"accepted here are {', '.join((*required, *optional))}")
        if missing := [key for key in required if key not in found]:
            self.fail(f"lacks {' and '.join(missing)}", f"it has {', '.join((*required, *optional))}")
        return found
