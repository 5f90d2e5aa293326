"""Writes the report of a model."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from torch.fx import GraphModule

from quantizer_sdk.debug import Comparison
from quantizer_sdk.errors import ReportError
from quantizer_sdk.mixed import Sensitivity
from quantizer_sdk.model_report.compose import content_of
from quantizer_sdk.model_report.content import Card, Picture
from quantizer_sdk.model_report.page import to_html
from quantizer_sdk.report import Explanation

__all__ = ["write_report"]


def write_report(
    path: str | Path,
    *,
    model: GraphModule,
    explanation: Explanation,
    comparison: Comparison | None = None,
    sensitivity: Sensitivity | None = None,
    title: str = "",
    cards: Sequence[Card] = (),
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write what became of a model as one HTML file that needs nothing else.

    Args:
        path: The file.
        model: The converted model.
        explanation: Of it.
        comparison: Of the float model with it; plots of it need matplotlib.
        sensitivity: What its outputs gain by each layer, which advice goes by; else by blame.
        title: The model's name; the file's by default.
        cards: Figures of the summary beside those of the two, such as sizes.
        facts: How the model was made.

    Raises:
        MissingDependencyError: Jinja or matplotlib is not installed.
        ReportError: The file cannot be written.
    """
    path = Path(path)
    content = content_of(
        *(title or path.stem, model, explanation, comparison, sensitivity),
        cards=cards,
        pictures=_pictures(comparison),
        facts=facts,
    )
    page = to_html(content)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as e:
        raise ReportError(f"cannot write {path}: {e.strerror}") from e


def _pictures(comparison: Comparison | None) -> list[Picture]:
    if comparison is None or not comparison.layers:
        return []
    pictures = [_picture("Noise of each layer", comparison.plot, "built up since the input, and each layer's own")]
    if any(layer.spread is not None for layer in comparison.layers):
        pictures += [
            _picture("Values and clipping", comparison.plot_histograms, "of the layers that add most noise"),
            _picture(
                "Range of each channel",
                comparison.plot_channels,
                "what lies far below its tensor's range is rounded coarsely",
            ),
        ]
    return pictures


def _picture(title: str, draw: Callable[[IO[bytes]], None], note: str) -> Picture:
    file = io.BytesIO()
    draw(file)
    return Picture(title=title, png=base64.b64encode(file.getvalue()).decode(), note=note)
