"""The main job from end to end: EfficientNet-Lite0 with its ImageNet weights on a backend's integer kernels."""
