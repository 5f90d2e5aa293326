"""A converted graph in the one form in which inductor's kernels are right and are found."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from quantizer_sdk.backend import give_each_call_its_weight
from quantizer_sdk.backends.inductor.equal_pools import requantize_pools
from quantizer_sdk.backends.inductor.float_weights import to_float_weights
from quantizer_sdk.backends.inductor.gemms import Gemm, find_gemms
from quantizer_sdk.backends.inductor.images import to_images
from quantizer_sdk.backends.inductor.marks import mark
from quantizer_sdk.backends.inductor.matrices import to_matrices
from quantizer_sdk.backends.inductor.separate_casts import separate_casts
from quantizer_sdk.backends.inductor.two_sided_clamps import to_two_sided_clamps
from quantizer_sdk.backends.qdq_forms import (
    dequantize_late,
    give_each_use_its_dequantize,
    quantize_early,
    to_channel_weights,
    to_full_ranges,
    to_number_padding,
    to_unsigned_activations,
)
from quantizer_sdk.backends.qdq_forms.gemm_weights import CONVOLUTIONS

__all__ = ["to_normal_form"]

_WEIGHT_SECOND = CONVOLUTIONS | {
    torch.ops.aten.linear.default,
    torch.ops.aten.matmul.default,
    torch.ops.aten.mm.default,
}


def to_normal_form(model: GraphModule) -> tuple[Gemm, ...]:
    """Bring a copy of the user's model into the form that inductor fuses; it computes the same bits in eager mode.

    Returns:
        The products with a quantized weight, in graph order. Those without an obstacle carry their marks.
    """
    to_unsigned_activations(model)
    quantize_early(model)
    to_full_ranges(model)
    to_channel_weights(model)
    to_two_sided_clamps(model)
    requantize_pools(model)
    give_each_call_its_weight(model, _WEIGHT_SECOND)  # equal dequantizes are made one again, of which none is fused
    give_each_use_its_dequantize(model)
    dequantize_late(model)
    to_number_padding(model)
    to_matrices(model)
    to_images(model)
    gemms = find_gemms(model)
    to_float_weights(model, [node for node, gemm in gemms.items() if gemm.obstacle is not None])
    mark(node for node, gemm in gemms.items() if gemm.obstacle is None)
    separate_casts(model)
    return tuple(gemms.values())
