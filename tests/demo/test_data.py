import importlib.util

import pytest
import torch

from quantizer_sdk import MissingDependencyError
from quantizer_sdk.demo.data import load_images


def test_images_are_preprocessed_for_lite0():
    data = load_images()
    assert data.images.shape == (20, 3, 224, 224)
    assert data.images.dtype == torch.float32
    assert data.images.is_contiguous()
    codes = data.images * 128 + 127
    assert torch.equal(codes, codes.round())
    assert codes.min() >= 0
    assert codes.max() <= 255
    assert data.labels[:4].tolist() == [243, 559, 438, 990]


def test_without_foolbox_the_error_names_the_command(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "foolbox" else find_spec(name))
    with pytest.raises(MissingDependencyError, match="pip install --no-deps foolbox"):
        load_images()


def test_a_foolbox_without_images(monkeypatch, tmp_path):
    (tmp_path / "foolbox").mkdir()
    (tmp_path / "foolbox" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"holds no images.*--no-deps foolbox==3\.3\.4"):
        load_images()
