"""Samples for a model out of files that people have: arrays, tensors, folders of images."""

from quantizer_sdk.samples.images import ImageOptions
from quantizer_sdk.samples.inputs import ModelInput, dynamic_shapes_of, inputs_of
from quantizer_sdk.samples.load import Samples, load_samples

__all__ = ["ImageOptions", "ModelInput", "Samples", "dynamic_shapes_of", "inputs_of", "load_samples"]
