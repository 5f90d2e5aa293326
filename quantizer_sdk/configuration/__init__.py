"""A quantizer's rules as a file that people read and change: TOML or JSON."""

from quantizer_sdk.configuration.file import load_config, save_config

__all__ = ["load_config", "save_config"]
