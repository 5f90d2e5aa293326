"""The quantizer for ExecuTorch's XNNPACK delegate."""

from __future__ import annotations

from quantizer_sdk import QuantizationConfig, TableQuantizer
from quantizer_sdk.backends.xnnpack.configs import get_symmetric_quantization_config
from quantizer_sdk.backends.xnnpack.rewrites import REWRITES
from quantizer_sdk.backends.xnnpack.table import ROWS

__all__ = ["XNNPACKQuantizer"]


class XNNPACKQuantizer(TableQuantizer):
    """Quantizes what runs on XNNPACK's static int8 kernels, and says of all else why it does not.

    Without any `set_` call it quantizes all it can, with a scale for each output channel of a weight. Set configs
    from `get_symmetric_quantization_config` to choose otherwise.
    """

    rows = ROWS
    rewrites = REWRITES

    def default_config(self) -> QuantizationConfig:
        """Return per-channel static int8."""
        return get_symmetric_quantization_config(is_per_channel=True)
