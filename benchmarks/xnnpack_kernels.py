"""How fast XNNPACK's int8 kernels are beside its float32 ones on this processor, kind by kind.

A model's speedup is bounded by that of its kernels, which no quantizer changes. Each kind runs as a chain of the same
layer, float and quantized in turns, on one thread; the difference of a long and a short chain leaves conversions out.

    python benchmarks/xnnpack_kernels.py
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, lower
from quantizer_sdk.demo.metrics import interleaved_medians

_SHORT, _LONG = 2, 6


class Scale(nn.Module):
    """A product with a number for each channel: what squeeze-and-excite ends with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(0.8, 1.25, channels).reshape(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        return x * self.factor


class Residual(nn.Module):
    """A sum with a constant of the input's size."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.other = nn.Parameter(torch.randn(1, channels, size, size) / 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        return x + self.other


Kind = Callable[[int, int], nn.Module]
KINDS: dict[str, Kind] = {
    "convolution 1x1": lambda c, _: nn.Conv2d(c, c, 1),
    "convolution 3x3": lambda c, _: nn.Conv2d(c, c, 3, padding=1),
    "depthwise 3x3": lambda c, _: nn.Conv2d(c, c, 3, padding=1, groups=c),
    "depthwise 5x5": lambda c, _: nn.Conv2d(c, c, 5, padding=2, groups=c),
    "sum": Residual,
    "product with a number a channel": lambda c, _: Scale(c),
    "hardswish": lambda _c, _s: nn.Hardswish(),
    "silu": lambda _c, _s: nn.SiLU(),
}
SIZES = ((96, 56), (192, 28), (384, 14))


def chain(make: Kind, channels: int, size: int, length: int) -> nn.Module:
    """Return the same layer several times in a row."""
    torch.manual_seed(0)
    return nn.Sequential(*[make(channels, size) for _ in range(length)]).eval()


def programs(make: Kind, channels: int, size: int) -> dict[str, Callable[[], object]]:
    """Return calls of a short and a long chain, float and quantized."""
    found: dict[str, Callable[[], object]] = {}
    x = torch.randn(1, channels, size, size)
    for length in (_SHORT, _LONG):
        exported = torch.export.export(chain(make, channels, size, length), (x,)).module()
        prepared = prepare_pt2e(exported, XNNPACKQuantizer())
        calibrate(prepared, [(x,)])
        for name, model in (("fp32", exported), ("int8", convert_pt2e(prepared))):
            program = lower(model, (x,))
            program.run(x)
            found[f"{name} {length}"] = functools.partial(program.run, x)
    return found


def main(rounds: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 31) -> None:
    """Measure and print the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Private: ExecuTorch has no public setting for the number of threads of its runtime in Python.
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    _unsafe_reset_threadpool(1)
    table = Table("kernel", *(f"{c} x {s} x {s}" for c, s in SIZES), title="µs fp32 / µs int8 = times as fast")
    for name, make in tqdm(KINDS.items(), unit="kind"):
        cells = []
        for channels, size in SIZES:
            calls = programs(make, channels, size)
            medians = interleaved_medians(calls, repeats=rounds, warmup=3, clock=time.process_time)
            each = [
                (medians[f"{kind} {_LONG}"] - medians[f"{kind} {_SHORT}"]) / (_LONG - _SHORT) * 1000
                for kind in ("fp32", "int8")
            ]
            cells.append(f"{each[0]:.0f} / {each[1]:.0f} = {each[0] / each[1]:.2f}")
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
