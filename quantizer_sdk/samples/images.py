"""Images as a model for images takes them: resized, cropped, normalized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quantizer_sdk.errors import DataError, MissingDependencyError
from quantizer_sdk.samples.inputs import ModelInput

__all__ = ["SUFFIXES", "ImageOptions", "ImageReader"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, for models trained on ImageNet


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How images become tensors: the shorter side is resized, the middle cropped, and each channel normalized.

    Attributes:
        mean: Taken from each channel's values 0 to 1; None takes ImageNet's for three channels, 0 for one.
        std: What the rest is divided by; None takes ImageNet's for three channels, 1 for one.
        resize: Length of the shorter side before the crop; None takes the smallest that the model's size fits in.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None


class ImageReader:
    """Reads images as samples of one input.

    Args:
        wanted: The input: [batch, channels, height, width] or [batch, height, width, channels], of floats or uint8.
        options: How to go about it.

    Raises:
        DataError: The input takes no images, or the options do not fit it.
        MissingDependencyError: Pillow is not installed.
    """

    def __init__(self, wanted: ModelInput, options: ImageOptions) -> None:
        try:
            import PIL.Image  # noqa: F401  asked for here, so that its absence is told before the work begins
        except ImportError as e:
            raise MissingDependencyError('images need Pillow: pip install "quantizer-sdk[cli]"') from e
        shape = wanted.shape
        self._last = len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3)
        channels, *size = (shape[3], *shape[1:3]) if self._last else shape[1:]
        floats = wanted.dtype.is_floating_point
        if len(shape) != 4 or channels not in (1, 3) or not (floats or wanted.dtype == torch.uint8):
            raise DataError(
                f"the model takes {wanted}, which no image is; images give [batch, 3 or 1, height, width] or [batch, "
                "height, width, 3 or 1], of floats or uint8. Save its samples as .npz"
            )
        height, width = (options.resize if length is None else length for length in size)
        if height is None or width is None:
            raise DataError(f"the model takes {wanted}, images of any size; say one with --resize")
        self._channels, self._height, self._width = channels, height, width
        self._resize = options.resize or max(height, width)
        self._dtype = wanted.dtype
        self._mean = _by_channel("mean", options.mean or (_MEAN if channels == 3 else (0.0,)), channels)
        self._std = _by_channel("std", options.std or (_STD if channels == 3 else (1.0,)), channels)
        if self._resize < max(height, width):
            raise DataError(f"resize is {self._resize}; the model takes {wanted}, which needs {max(height, width)}")
        if any(value == 0 for value in self._std):
            raise DataError("std is 0 for a channel; expected numbers above 0")

    def __str__(self) -> str:
        crop = f"shorter side to {self._resize}, middle {self._height} x {self._width}"
        if not self._dtype.is_floating_point:
            return f"images: {crop}, values 0 to 255"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self._mean, self._std))
        return f"images: {crop}, (value / 255 - mean) / std with mean {mean} and std {std}"

    def read(self, path: Path) -> torch.Tensor:
        """Return one image as a sample [1, ...].

        Raises:
            DataError: The file is no image.
        """
        from PIL import Image

        try:
            with Image.open(path) as file:
                image = file.convert("RGB" if self._channels == 3 else "L")
        except (OSError, SyntaxError, ValueError) as e:
            raise DataError(f"cannot read the image {path}: {e}") from e
        scale = self._resize / min(image.size)
        wide, high = (max(round(length * scale), self._resize) for length in image.size)
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = (wide - self._width) // 2, (high - self._height) // 2
        pixels = np.asarray(image.crop((left, top, left + self._width, top + self._height)))
        tensor = torch.from_numpy(pixels.reshape(self._height, self._width, self._channels).copy())
        if self._dtype.is_floating_point:
            mean, std = torch.tensor(self._mean), torch.tensor(self._std)
            tensor = ((tensor.to(torch.float32) / 255 - mean) / std).to(self._dtype)
        return tensor[None] if self._last else tensor.permute(2, 0, 1)[None].contiguous()


def _by_channel(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise DataError(f"{name} has {len(values)} numbers; the model's images have {channels} channels")
    return tuple(values) * (channels if len(values) == 1 else 1)
