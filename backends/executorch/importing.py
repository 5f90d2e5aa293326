"""ExecuTorch imported where it is used: quietly, and with an error that names the extra to install."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

from quantizer_sdk.backend import quiet_logs
from quantizer_sdk.errors import MissingDependencyError

__all__ = ["importing", "quiet"]

_NOISY_LOGGERS = ("executorch", "torchao", "torch.utils._pytree")


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Guard imports of ExecuTorch: quiet, and a failed one names the extra to install.

    Raises:
        MissingDependencyError: An import inside the block failed.
    """
    try:
        with quiet():
            yield
    except ImportError as e:
        raise MissingDependencyError(
            f'the XNNPACK backend needs ExecuTorch: pip install "quantizer-sdk[xnnpack]" (importing it failed: {e})',
        ) from e


def quiet() -> AbstractContextManager[None]:
    """Keep deprecation warnings and ExecuTorch's and torchao's log below ERROR off the console; see `quiet_logs`."""
    return quiet_logs("executorch", _NOISY_LOGGERS)
