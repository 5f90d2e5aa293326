"""The quantizer for ExecuTorch's XNNPACK delegate."""

from __future__ import annotations

from torch.fx import GraphModule

from quantizer_sdk import InvalidAnnotationError, QuantizationConfig, TableQuantizer
from quantizer_sdk.backend import arrange_clamps, batch_products, selects_as_slices
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

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Rewrite ops that only another form has a kernel for: some chains around the table's own rewrites of ops."""
        arrange_clamps(model, self.covers)
        model = super().transform_for_annotation(model)
        batch_products(model)  # after the rest: what scales attention is float like the products around it
        selects_as_slices(model)
        return model

    def validate(self, model: GraphModule) -> None:
        """Refuse annotations that XNNPACK's kernels cannot compute, whoever wrote them.

        Raises:
            InvalidAnnotationError: There are some; states all of them, by node and the user's line.
        """
        if found := self.violations(model):
            message = f"XNNPACK has no kernel for {len(found)} annotated ops: {'; '.join(found)}"
            raise InvalidAnnotationError(message)
