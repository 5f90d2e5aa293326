"""EfficientNet-Lite0 with its ImageNet weights and real images: the model of `quantizer-sdk demo`."""

from __future__ import annotations

from models.entry import Entry, Inputs
from quantizer_sdk.demo.data import IMAGE_SIZE, load_images, load_lite0

__all__ = ["ENTRIES"]


def _examples(size: int, count: int) -> list[Inputs]:
    return [(image,) for image in load_images().images[:count, :, :size, :size].contiguous().split(1)]


ENTRIES = (
    Entry(
        name="efficientnet_lite0",
        build=lambda _: load_lite0(),
        examples=_examples,
        size=IMAGE_SIZE,
        small=64,
        calibration=12,
        held_out=8,
    ),
)
