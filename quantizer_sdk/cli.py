"""The command line: `quantizer-sdk quantize`, `compare`, `tune`, `explain`, `conform`, ..."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]

_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line; without the packages it needs, say what installs them."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(f'quantizer-sdk needs {" and ".join(missing)}: pip install "quantizer-sdk[cli]"\n')
        raise SystemExit(1)
    from quantizer_sdk.commands import app

    app()
