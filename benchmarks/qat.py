"""What quantization-aware training costs: preparing, a step, and converting; our engine and torchao's in one run.

python benchmarks/qat.py --compare
"""

from __future__ import annotations

import copy
import gc
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

from quantizer_sdk import convert_pt2e, prepare_qat_pt2e
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.demo.data import load_images, load_lite0

SIZES = (1, 10, 50, 200)


def network(layers: int) -> nn.Module:
    """Return a chain of conv - bn - relu."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(layers)]
    return nn.Sequential(*blocks).train()


def our_prepare(model: GraphModule) -> GraphModule:
    """Prepare for training with our engine."""
    config = get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
    return prepare_qat_pt2e(model, XNNPACKQuantizer().set_global(config))


def their_prepare(model: GraphModule) -> GraphModule:
    """Prepare for training with ExecuTorch's quantizer on torchao's engine."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as peer
    from torchao.quantization.pt2e import quantize_pt2e as engine

    config = peer.get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
    prepared: GraphModule = engine.prepare_qat_pt2e(model, peer.XNNPACKQuantizer().set_global(config))
    return prepared


def their_convert(model: GraphModule) -> GraphModule:
    """Convert with torchao's engine."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e import quantize_pt2e as engine

    converted: GraphModule = engine.convert_pt2e(move_exported_model_to_eval(model))
    return converted


def handle(
    layers: int, prepare: Callable[[GraphModule], GraphModule], convert: Callable[[GraphModule], GraphModule]
) -> tuple[float, float]:
    """Return the CPU seconds that preparing and converting take."""
    x = torch.randn(2, 4, 6, 6)
    exported = torch.export.export(network(layers), (x,)).module()
    gc.collect()
    start = time.process_time()
    prepared = prepare(exported)
    middle = time.process_time()
    prepared(x)
    again = time.process_time()
    convert(prepared)
    return middle - start, time.process_time() - again


def graph_handling(repeats: int, compare: bool, console: Console) -> dict[str, Any]:
    """Measure preparing and converting by the number of layers."""
    handle(2, our_prepare, lambda model: convert_pt2e(model.eval()))
    table = Table(title="conv - bn - relu, CPU seconds on one thread, medians")
    for heading in ("layers", "ours prepare", "ours convert", "torchao prepare", "torchao convert"):
        table.add_column(heading, justify="right")
    rows = []
    for layers in tqdm(SIZES, desc="graph handling"):
        runs = [handle(layers, our_prepare, lambda model: convert_pt2e(model.eval())) for _ in range(repeats)]
        mine = [statistics.median(side) for side in zip(*runs, strict=True)]
        peers = list(handle(layers, their_prepare, their_convert)) if compare and layers == 1 else []
        rows.append({"layers": layers, "ours": mine, "torchao": peers})
        table.add_row(str(layers), *(f"{seconds:.3f}" for seconds in (*mine, *peers)))
    first, last = rows[1], rows[-1]
    exponent = math.log(sum(last["ours"]) / sum(first["ours"])) / math.log(last["layers"] / first["layers"])
    console.print(table)
    console.print(f"prepare + convert grows as layers ** {exponent:.2f} from {first['layers']} to {last['layers']}")
    return {"rows": rows, "exponent": exponent}


def step_of(model: GraphModule, images: torch.Tensor) -> Callable[[], None]:
    """Return a function that takes one step of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    return step


def steps(repeats: int, compare: bool, console: Console) -> dict[str, float]:
    """Measure a step of EfficientNet-Lite0 at batch 4: in float, on our engine, and on torchao's, in turn."""
    images, net = load_images().images[:4], load_lite0().train()
    exported = torch.export.export(net, (images,)).module()
    contenders = {"float": step_of(copy.deepcopy(exported), images), "ours": step_of(our_prepare(exported), images)}
    if compare:
        contenders["torchao"] = step_of(their_prepare(copy.deepcopy(exported)), images)
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in tqdm(range(repeats + 1), desc="steps of EfficientNet-Lite0"):
        for name, step in contenders.items():
            start = time.process_time()
            step()
            seen[name].append(time.process_time() - start)
    medians = {name: statistics.median(times[1:]) for name, times in seen.items()}
    for name, seconds in medians.items():
        console.print(f"step, {name:8} {1000 * seconds:7.1f} ms  {seconds / medians['float']:.2f} x float")
    if compare:
        console.print(f"ours / torchao: {medians['ours'] / medians['torchao']:.2f}")
    return medians


def main(
    repeats: Annotated[int, typer.Option(help="Runs of each measurement.")] = 5,
    compare: Annotated[bool, typer.Option("--compare", help="Measure torchao too; takes a minute or two.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Where to put the figures.")] = None,
) -> None:
    """Measure both engines."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    console = Console(width=120)
    found = {"graphs": graph_handling(repeats, compare, console), "steps": steps(repeats, compare, console)}
    if out is not None:
        out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
