"""All models of the benchmark, those with real weights first."""

from __future__ import annotations

from models import (
    bert,
    convnext,
    crepe,
    keyword_spotting,
    lite0,
    mobilenet_v2,
    mobilenet_v3,
    recurrent,
    resnet,
    unet,
    vit,
)
from models.entry import Entry

__all__ = ["ENTRIES"]

_MODULES = (
    lite0,
    crepe,
    mobilenet_v2,
    mobilenet_v3,
    resnet,
    convnext,
    unet,
    vit,
    bert,
    recurrent,
    keyword_spotting,
)

ENTRIES: dict[str, Entry] = {entry.name: entry for module in _MODULES for entry in module.ENTRIES}
