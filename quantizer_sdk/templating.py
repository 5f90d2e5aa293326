"""Templates of reports and pages, filled in by Jinja; they are files in a package's folder templates."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Callable, Mapping
from typing import Any

from quantizer_sdk.errors import MissingDependencyError

__all__ = ["asset", "fill", "page_style", "script_hash"]


def fill(
    package: str,
    name: str,
    context: Mapping[str, Any],
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Fill a template in; HTML and SVG are escaped, and a name that the context lacks is an error.

    Args:
        package: Whose template it is, such as "quantizer_sdk.conformance".
        name: A file in its folder templates, such as "badge.svg.j2".
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
        loader=jinja2.PackageLoader(package),
        autoescape=not name.endswith((".md.j2", ".py.j2")),  # noqa: S701  # Markdown has a filter of its own
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(name).render(**context)


def asset(package: str, name: str) -> str:
    """Return the text of a file in a package's templates that holds nothing to be filled in, such as a script."""
    return importlib.resources.files(package).joinpath("templates").joinpath(name).read_text("utf-8")


def page_style() -> str:
    """Return the style sheet that all pages share: colours by day and by night, letters, tables, search."""
    return asset("quantizer_sdk", "page.css")


def script_hash(script: str) -> str:
    """Return what a page's security policy names a script by, so that no other one runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
