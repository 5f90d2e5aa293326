"""One HTML report of a quantized model: what it is made of, where its noise comes from, and what to do about it."""

from quantizer_sdk.model_report.content import Card
from quantizer_sdk.model_report.write import write_report

__all__ = ["Card", "write_report"]
