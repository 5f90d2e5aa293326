"""An empty picture, drawn without a window system and without matplotlib's global state."""

from __future__ import annotations

import importlib.util
from typing import Any

from quantizer_sdk.errors import MissingDependencyError

__all__ = ["new_figure", "require_matplotlib"]


def require_matplotlib() -> None:
    """Check, before the work whose result is to be drawn, that it can be.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError('the picture needs matplotlib: pip install "quantizer-sdk[report]"')


def new_figure(width: float, height: float, dpi: int = 110) -> Any:
    """Return a matplotlib figure of so many inches, whose parts make room for each other.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
