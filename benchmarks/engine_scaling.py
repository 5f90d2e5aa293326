"""How prepare, calibration and convert grow with the model: our engine and torchao's, side by side in one run.

The networks have tiny layers, so that handling the graph is what takes the time. CPU seconds on one thread; the engines
take turns, and medians are printed. torchao stops at the size before the one that would take it over a minute.

    python benchmarks/engine_scaling.py --model blocks --plot scaling.png
    python benchmarks/engine_scaling.py --model memory
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
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
ENGINES = ("ours", "torchao")
PATIENCE = 60.0


class Block(nn.Module):
    """conv - bn - relu - linear - add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, 4, 6, 6] to the same shape."""
        return self.linear(torch.relu(self.bn(self.conv(x)))) + x


@dataclass(frozen=True)
class Family:
    """Networks of one kind and growing size."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    fit_from: int


class Model(str, Enum):
    """What to measure."""

    CHAIN = "chain"
    BLOCKS = "blocks"
    TRANSFORMER = "transformer"
    MEMORY = "memory"


FAMILIES = {
    Model.CHAIN: Family(lambda: nn.Linear(6, 6), (2, 6), (100, 200, 400, 800, 1600, 2400, 3200), 100),
    Model.BLOCKS: Family(Block, (2, 4, 6, 6), (10, 40, 160, 320, 640), 40),
    Model.TRANSFORMER: Family(
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (2, 5, 16), (6, 12, 24, 48, 96, 192, 384), 6
    ),
}


def ours(model: GraphModule, x: torch.Tensor) -> dict[str, float]:
    """Quantize with our engine; seconds by stage."""
    config = get_symmetric_quantization_config(is_per_channel=True, activation_observer=MinMaxObserver)
    quantizer = XNNPACKQuantizer().set_global(config)
    return timed(model, x, lambda m: prepare_pt2e(m, quantizer), convert_pt2e)


def theirs(model: GraphModule, x: torch.Tensor) -> dict[str, float]:
    """Quantize with ExecuTorch's quantizer on torchao's engine, with min-max observers too; seconds by stage."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as peer
    from torchao.quantization.pt2e import MinMaxObserver as TheirMinMaxObserver
    from torchao.quantization.pt2e import quantize_pt2e as engine

    config = peer.get_symmetric_quantization_config(is_per_channel=True)
    spec = dataclasses.replace(config.input_activation, observer_or_fake_quant_ctr=TheirMinMaxObserver)
    config = dataclasses.replace(config, input_activation=spec, output_activation=spec)
    quantizer = peer.XNNPACKQuantizer().set_global(config)
    return timed(model, x, lambda m: engine.prepare_pt2e(m, quantizer), engine.convert_pt2e)


def timed(
    model: GraphModule,
    x: torch.Tensor,
    prepare: Callable[[GraphModule], GraphModule],
    convert: Callable[[GraphModule], GraphModule],
) -> dict[str, float]:
    """Time the three stages."""
    gc.collect()
    marks = [time.process_time()]
    prepared = prepare(model)
    marks.append(time.process_time())
    with torch.no_grad():
        prepared(x)
    marks.append(time.process_time())
    convert(prepared)
    marks.append(time.process_time())
    return {stage: marks[index + 1] - marks[index] for index, stage in enumerate(STAGES)}


def network(family: Family, size: int) -> tuple[nn.Module, torch.Tensor]:
    """Make a network and an input."""
    torch.manual_seed(0)
    return nn.Sequential(*(family.make() for _ in range(size))).eval(), torch.randn(family.shape)


def measure(family: Family, size: int, repeats: int, engines: tuple[str, ...], progress: Any) -> dict[str, Any]:
    """Export once a repeat and engine, for torchao changes what it is given; medians."""
    model, x = network(family, size)
    exports: list[float] = []
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    nodes = 0
    for _ in range(repeats):
        for name in engines:
            progress.set_postfix_str(f"size {size}, {name}")
            start = time.process_time()
            exported = torch.export.export(model, (x,)).module()
            exports.append(time.process_time() - start)
            nodes = len(exported.graph.nodes)
            runs[name].append({"ours": ours, "torchao": theirs}[name](exported, x))
            progress.update()
    result: dict[str, Any] = {"size": size, "nodes": nodes, "export": statistics.median(exports)}
    for name, found in runs.items():
        result[name] = {stage: statistics.median(run[stage] for run in found) for stage in STAGES}
    both = {name: result[name]["prepare"] + result[name]["convert"] for name in runs}
    return {**result, "ratio": both["torchao"] / both["ours"] if "torchao" in both else None}


def measure_all(family: Family, sizes: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """Measure every size; torchao while it is expected to take a minute at most."""
    rows: list[dict[str, Any]] = []
    for engine in (ours, theirs):  # what is imported or compiled at first use is not what grows
        small, x = network(family, 2)
        engine(torch.export.export(small, (x,)).module(), x)
    with tqdm(total=2 * repeats * len(sizes), unit="run") as progress:
        for size in sizes:
            engines: tuple[str, ...] = ENGINES
            known = [row for row in rows if "torchao" in row]
            if len(known) < len(rows) or (known and expected(known, size) > PATIENCE):
                engines = ("ours",)
            rows.append(measure(family, size, repeats, engines, progress))
    return rows


def expected(rows: list[dict[str, Any]], size: int) -> float:
    """Guess torchao's seconds at a size: it has grown with the square at times."""
    last = rows[-1]
    return float(last["torchao"]["prepare"] + last["torchao"]["convert"]) * (size / last["size"]) ** 2


def exponent(rows: list[dict[str, Any]], name: str, stages: tuple[str, ...], fit_from: int) -> float | None:
    """Fit seconds ~ size ** exponent by least squares on logarithms."""
    points = [
        (math.log(row["size"]), math.log(sum(row[name][stage] for stage in stages)))
        for row in rows
        if row["size"] >= fit_from and name in row
    ]
    if len(points) < 2:
        return None
    x, y = (statistics.fmean(values) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def render(rows: list[dict[str, Any]], fits: dict[str, dict[str, float | None]]) -> Table:
    """Return the figures as a table."""
    table = Table(title="CPU seconds on one thread, medians")
    columns = [(name, stage) for name in ENGINES for stage in STAGES]
    for heading in ("size", "nodes", "export", *(" ".join(column) for column in columns), "torchao / ours"):
        table.add_column(heading, justify="right")
    for row in rows:
        seconds = [f"{row[name][stage]:.3f}" if name in row else "-" for name, stage in columns]
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.1f}x"
        table.add_row(str(row["size"]), str(row["nodes"]), f"{row['export']:.2f}", *seconds, ratio)
    table.add_section()
    fitted = [fits[name][stage] for name, stage in columns]
    table.add_row("exponent", "", "", *("-" if fit is None else f"{fit:.2f}" for fit in fitted), "")
    return table


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot prepare + convert against size, both on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name in ENGINES:
        known = [(row["size"], row[name]["prepare"] + row[name]["convert"]) for row in rows if name in row]
        axes.loglog(*zip(*known, strict=True), "o-", label=name)
    sizes = [row["size"] for row in rows]
    axes.loglog(sizes, [row["export"] for row in rows], "--", color="grey", label="torch.export itself")
    axes.set_xlabel("layers, or blocks")
    axes.set_ylabel("prepare + convert, CPU seconds")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def resident(field: str) -> float:
    """Return VmRSS, or the peak VmHWM, of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(field)


def measure_memory(console: Console) -> None:
    """Print how far prepare, calibration and convert of 32 large layers raise the peak of memory."""
    model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(32))).eval()
    x = torch.randn(1, 2048)
    weights = sum(value.numel() * value.element_size() for value in model.parameters()) / 2**20
    exported = torch.export.export(model, (x,)).module()
    exported(x)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    ours(exported, x)
    peak = resident("VmHWM") - before
    console.print(
        f"weights {weights:.0f} MB; prepare + calibrate + convert raise the peak by {peak:.0f} MB: "
        f"{peak / weights:.2f} x the weights, over the exported model"
    )


def main(
    model: Annotated[Model, typer.Option(help="What to measure.")] = Model.BLOCKS,
    size: Annotated[list[int] | None, typer.Option(help="Sizes to measure.")] = None,
    repeats: Annotated[int, typer.Option(help="Runs of each engine at each size.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Where to put a picture.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Where to put the figures.")] = None,
) -> None:
    """Measure both engines at every size."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    console = Console(width=150)
    if model is Model.MEMORY:
        measure_memory(console)
        return
    family = FAMILIES[model]
    rows = measure_all(family, tuple(size or family.sizes), repeats)
    fits: dict[str, dict[str, float | None]] = {}
    for name in ENGINES:
        fits[name] = {stage: exponent(rows, name, (stage,), family.fit_from) for stage in STAGES}
        fits[name]["prepare+convert"] = exponent(rows, name, ("prepare", "convert"), family.fit_from)
    console.print(render(rows, fits))
    for name, fit in fits.items():
        if (both := fit["prepare+convert"]) is not None:
            console.print(f"{name}: prepare + convert grows as size ** {both:.2f} from {family.fit_from} on")
    if out is not None:
        out.write_text(json.dumps({"rows": rows, "exponents": fits}, indent=2))
    if plot is not None:
        draw(rows, plot)


if __name__ == "__main__":
    typer.run(main)
