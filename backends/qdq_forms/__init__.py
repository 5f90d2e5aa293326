"""Exact normal forms of a converted graph, for kernels that know one form only; each changes a copy in place."""

from quantizer_sdk.backends.qdq_forms.channel_weights import to_channel_weights
from quantizer_sdk.backends.qdq_forms.dequantize_late import dequantize_late
from quantizer_sdk.backends.qdq_forms.full_ranges import to_full_ranges
from quantizer_sdk.backends.qdq_forms.gathered_codes import gather_codes
from quantizer_sdk.backends.qdq_forms.number_padding import to_number_padding
from quantizer_sdk.backends.qdq_forms.own_dequantizes import give_each_use_its_dequantize
from quantizer_sdk.backends.qdq_forms.quantize_early import quantize_early
from quantizer_sdk.backends.qdq_forms.unsigned_activations import to_unsigned_activations

__all__ = [
    "dequantize_late",
    "gather_codes",
    "give_each_use_its_dequantize",
    "quantize_early",
    "to_channel_weights",
    "to_full_ranges",
    "to_number_padding",
    "to_unsigned_activations",
]
