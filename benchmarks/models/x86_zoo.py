"""The models that are measured on x86."""

from __future__ import annotations

from models import keyword_spotting, lite0, minilm, mobilenet_v2, resnet, transformer
from models.entry import Entry

__all__ = ["ENTRIES", "TRANSFORMERS", "WITH_OUTLIERS", "WITH_TRAINED_DEPTHWISE"]

_NAMES = ("resnet18", "mobilenet_v2", "efficientnet_lite0", "minilm", "transformer", "keyword_spotting")
_KNOWN = {
    entry.name: entry
    for module in (resnet, mobilenet_v2, lite0, minilm, transformer, keyword_spotting)
    for entry in module.ENTRIES
}

ENTRIES: dict[str, Entry] = {name: _KNOWN[name] for name in _NAMES}
TRANSFORMERS = frozenset({"minilm", "transformer"})
"""Those whose linear layers are quantized at run time too."""
WITH_OUTLIERS = frozenset({"minilm"})
"""Those whose activations have channels far larger than the rest, as only training makes them."""
WITH_TRAINED_DEPTHWISE = frozenset({"efficientnet_lite0"})
"""Those with depthwise convolutions whose biases are corrected."""
