"""How prepare, calibration and convert grow with the model: our engine and torchao's, side by side in one run.

The model is a chain of tiny blocks of convolution, batch norm, relu, linear and add, so that handling the graph is what
takes the time. CPU seconds on one thread; the engines take turns, and medians are printed.

    python benchmarks/engine_scaling.py --plot scaling.png
"""

from __future__ import annotations

import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.fx import GraphModule
from tqdm import tqdm

from quantizer_sdk import convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.observers import MinMaxObserver

STAGES = ("prepare", "calibrate", "convert")
FIT_FROM = 40


class Block(nn.Module):
    """conv - bn - relu - linear - add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, 4, 6, 6] to the same shape."""
        return self.linear(torch.relu(self.bn(self.conv(x)))) + x


def ours(model: GraphModule, x: torch.Tensor) -> dict[str, float]:
    """Quantize with our engine; seconds by stage."""
    config = get_symmetric_quantization_config(is_per_channel=True, activation_observer=MinMaxObserver)
    quantizer = XNNPACKQuantizer().set_global(config)
    return timed(model, x, lambda m: prepare_pt2e(m, quantizer), convert_pt2e)


def theirs(model: GraphModule, x: torch.Tensor) -> dict[str, float]:
    """Quantize with ExecuTorch's quantizer on torchao's engine; seconds by stage."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as peer
    from torchao.quantization.pt2e import quantize_pt2e as engine

    quantizer = peer.XNNPACKQuantizer().set_global(peer.get_symmetric_quantization_config(is_per_channel=True))
    return timed(model, x, lambda m: engine.prepare_pt2e(m, quantizer), engine.convert_pt2e)


def timed(
    model: GraphModule,
    x: torch.Tensor,
    prepare: Callable[[GraphModule], GraphModule],
    convert: Callable[[GraphModule], GraphModule],
) -> dict[str, float]:
    """Time the three stages."""
    marks = [time.process_time()]
    prepared = prepare(model)
    marks.append(time.process_time())
    with torch.no_grad():
        prepared(x)
    marks.append(time.process_time())
    convert(prepared)
    marks.append(time.process_time())
    return {stage: marks[index + 1] - marks[index] for index, stage in enumerate(STAGES)}


def measure(blocks: int, repeats: int, progress: Any) -> dict[str, Any]:
    """Export once a repeat and engine, for torchao changes what it is given; medians."""
    torch.manual_seed(0)
    model, x = nn.Sequential(*(Block() for _ in range(blocks))).eval(), torch.randn(2, 4, 6, 6)
    exports: list[float] = []
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "torchao": []}
    nodes = 0
    for _ in range(repeats):
        for name, engine in (("ours", ours), ("torchao", theirs)):
            progress.set_postfix_str(f"{blocks} blocks, {name}")
            start = time.process_time()
            exported = torch.export.export(model, (x,)).module()
            exports.append(time.process_time() - start)
            nodes = len(exported.graph.nodes)
            runs[name].append(engine(exported, x))
            progress.update()
    result: dict[str, Any] = {"blocks": blocks, "nodes": nodes, "export": statistics.median(exports)}
    for name, found in runs.items():
        result[name] = {stage: statistics.median(run[stage] for run in found) for stage in STAGES}
    both = {name: result[name]["prepare"] + result[name]["convert"] for name in runs}
    return {**result, "ratio": both["torchao"] / both["ours"]}


def exponent(rows: list[dict[str, Any]], name: str, stages: tuple[str, ...]) -> float:
    """Fit seconds ~ blocks ** exponent by least squares on logarithms, from FIT_FROM blocks on."""
    points = [
        (math.log(row["blocks"]), math.log(sum(row[name][stage] for stage in stages)))
        for row in rows
        if row["blocks"] >= FIT_FROM
    ]
    x, y = (statistics.fmean(values) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def render(rows: list[dict[str, Any]], fits: dict[str, dict[str, float]]) -> Table:
    """Return the figures as a table."""
    table = Table(title="CPU seconds on one thread, medians")
    columns = [f"{name} {stage}" for name in ("ours", "torchao") for stage in STAGES]
    for heading in ("blocks", "nodes", "export", *columns, "torchao / ours"):
        table.add_column(heading, justify="right")
    for row in rows:
        seconds = [f"{row[name][stage]:.3f}" for name in ("ours", "torchao") for stage in STAGES]
        table.add_row(str(row["blocks"]), str(row["nodes"]), f"{row['export']:.2f}", *seconds, f"{row['ratio']:.1f}x")
    fitted = [f"{fits[name][stage]:.2f}" for name in ("ours", "torchao") for stage in STAGES] if fits else []
    if fitted:
        table.add_section()
        table.add_row("exponent", "", "", *fitted, "")
    return table


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot prepare + convert against blocks, both on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    blocks = [row["blocks"] for row in rows]
    for name in ("ours", "torchao"):
        axes.loglog(blocks, [row[name]["prepare"] + row[name]["convert"] for row in rows], "o-", label=name)
    axes.loglog(blocks, [row["export"] for row in rows], "--", color="grey", label="torch.export itself")
    axes.set_xlabel("blocks of conv-bn-relu-linear-add")
    axes.set_ylabel("prepare + convert, CPU seconds")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main(
    blocks: Annotated[list[int] | None, typer.Option(help="Sizes to measure.")] = None,
    repeats: Annotated[int, typer.Option(help="Runs of each engine at each size.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Where to put a picture.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Where to put the figures.")] = None,
) -> None:
    """Measure both engines at every size."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sizes = blocks or [10, 40, 160, 320]
    with tqdm(total=2 * repeats * len(sizes), unit="run") as progress:
        rows = [measure(size, repeats, progress) for size in sizes]
    fits: dict[str, dict[str, float]] = {}
    if sum(size >= FIT_FROM for size in sizes) >= 2:
        for name in ("ours", "torchao"):
            fits[name] = {stage: exponent(rows, name, (stage,)) for stage in STAGES}
            fits[name]["prepare+convert"] = exponent(rows, name, ("prepare", "convert"))
    console = Console(width=150)
    console.print(render(rows, fits))
    for name, fit in fits.items():
        console.print(f"{name}: prepare + convert grows as blocks ** {fit['prepare+convert']:.2f} from {FIT_FROM} on")
    if out is not None:
        out.write_text(json.dumps({"rows": rows, "exponents": fits}, indent=2))
    if plot is not None:
        draw(rows, plot)


if __name__ == "__main__":
    typer.run(main)
