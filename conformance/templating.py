"""Templates of the reports, filled in by Jinja; they are files in this package's folder templates."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Mapping
from typing import Any

from quantizer_sdk.errors import MissingDependencyError

__all__ = ["asset", "fill"]


def fill(name: str, context: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None) -> str:
    """Fill a template in; HTML and SVG are escaped, and a name that the context lacks is an error.

    Args:
        name: A file in templates, such as "badge.svg.j2".
        context: What the template's names stand for.
        filters: What the template's own filters do.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    try:
        import jinja2
    except ImportError as e:
        raise MissingDependencyError(f'{name} needs jinja2, but {e}: pip install "quantizer-sdk[report]"') from e

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("quantizer_sdk.conformance"),
        autoescape=not name.endswith((".md.j2", ".py.j2")),  # noqa: S701  # Markdown has a filter of its own
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(name).render(**context)


def asset(name: str) -> str:
    """Return the text of a file in templates that holds nothing to be filled in, such as a style sheet."""
    return (
        importlib.resources.files("quantizer_sdk.conformance").joinpath("templates").joinpath(name).read_text("utf-8")
    )
