"""Quantizers of this library on torchao's engine."""

from __future__ import annotations

import importlib.util
from typing import Any

from quantizer_sdk.errors import MissingDependencyError
from quantizer_sdk.quantizer import QuantizerLike, as_quantizer

__all__ = ["as_torchao"]


def as_torchao(quantizer: QuantizerLike, *, is_qat: bool | None = None) -> Any:
    """Return a quantizer for `torchao.quantization.pt2e`, which annotates as this one does.

    Its class is torchao's `Quantizer`, so that `prepare_pt2e`, `prepare_qat_pt2e` and `ComposableQuantizer` of torchao
    take it. Observers and fake quantizers stay those of this library; what torchao's `convert_pt2e` has no q/dq op for,
    they write themselves.

    Args:
        quantizer: Any quantizer of this library. One of torchao's is returned as it is.
        is_qat: Whether it is for `prepare_qat_pt2e`, which tells its quantizers nothing of it. None takes the
            quantizer's own `is_qat`: a table quantizer's is that of its configs.

    Raises:
        MissingDependencyError: torchao is not installed.
        NotAQuantizerError: It has no `annotate`.
        NothingAnnotatedError: From torchao's `prepare`, where the quantizer claims nothing.
        UnsupportedError: From torchao's `prepare`, where an annotation has no form on its engine: inside control flow,
            or a bias with derived qparams behind which a batch norm trains.
    """
    if importlib.util.find_spec("torchao") is None:
        raise MissingDependencyError('as_torchao needs torchao: pip install "quantizer-sdk[torchao]"')
    from quantizer_sdk.interop.torchao_quantizer import of_torchao

    inner = as_quantizer(quantizer)
    return of_torchao(quantizer, inner, bool(getattr(quantizer, "is_qat", False)) if is_qat is None else is_qat)
