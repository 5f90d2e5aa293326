"""Sensitivity and mixed precision on real models: does the estimate rank as measurement does, and what do they cost?

For each model: the SQNR of first order beside the measured one, the rank correlation of estimated with measured gains
over some layers, the cost of the sweep over one float forward of the same samples, and what rules reach a target.

    python benchmarks/mixed_precision.py --models efficientnet_lite0
"""

from __future__ import annotations

import time
from typing import Annotated

import torch
import typer
from models import x86_zoo, zoo
from models.entry import Entry

from quantizer_sdk import Budget, BudgetError, mixed_precision, sensitivity
from quantizer_sdk.backends.x86 import X86Quantizer
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config
from quantizer_sdk.mixed.trial import Workbench

_QUANTIZERS = {
    "xnnpack": XNNPACKQuantizer,
    "xnnpack, weights per tensor": lambda: XNNPACKQuantizer().set_global(get_symmetric_quantization_config()),
    "onednn": lambda: X86Quantizer("onednn"),
}


def _ranks(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).argsort().argsort().double()


def _sweep_over_forward(bench: Workbench, quantizer: object, probes: int) -> float:
    """Return the time of a sweep over that of one float forward of the same samples."""
    prepared, layers = bench.prepared(quantizer)  # type: ignore[arg-type]
    _figures, errors = bench.measured(prepared)
    with torch.no_grad():
        start = time.process_time()
        for batch in bench.evaluation:
            bench.model(*batch)
        forward = time.process_time() - start
    start = time.process_time()
    bench.sources(prepared, layers, errors, probes)
    return (time.process_time() - start) / forward


def _judge(entry: Entry, name: str, measure: int, gain: float, float_layers: int) -> None:
    batches = entry.examples(entry.size, entry.calibration + entry.held_out)
    data, evaluation = batches[: entry.calibration], batches[entry.calibration :]
    with torch.no_grad():
        model = torch.export.export(entry.build(entry.size).eval(), data[0]).module()
    make = _QUANTIZERS[name]
    found = sensitivity(model, make(), data, evaluation=evaluation, measure=measure)
    measured = [layer for layer in found.layers if layer.measured_gain is not None]
    pairs = [[layer.estimated_gain for layer in measured], [layer.gain for layer in measured]]
    rho = float(torch.corrcoef(torch.stack([_ranks(values) for values in pairs]))[0, 1])
    print(
        f"{entry.name}, {name}: {len(found.layers)} layers; {found.sqnr:.2f} dB measured, "
        f"{found.estimated_sqnr:.2f} dB of first order; rank correlation of {len(measured)} gains: {rho:.2f}"
    )
    for layer in found.ranked()[:8]:
        print(f"    {layer.gain:+.2f} dB ({layer.estimated_gain:+.2f} estimated) {layer.name}")
    bench = Workbench.of(model, data, evaluation)
    ratio = _sweep_over_forward(bench, make(), 32)
    print(f"    a sweep of 32 probes takes {ratio:.1f} float forwards of the samples it sees")
    for budget in (Budget(sqnr=found.sqnr + gain), Budget(max_float_layers=float_layers)):
        start = time.process_time()
        try:
            result = mixed_precision(model, make(), data, budget, evaluation=evaluation, max_trials=24)
        except BudgetError as e:
            result = e.closest
        print(f"  {time.process_time() - start:.0f} s: {result}")


def main(
    models: Annotated[str, typer.Option(help="Names of the zoo, between commas.")] = "efficientnet_lite0,minilm",
    measure: Annotated[int, typer.Option(help="How many layers' gains are measured.")] = 12,
    gain: Annotated[float, typer.Option(help="dB more than without rules, as the target.")] = 3.0,
    float_layers: Annotated[int, typer.Option(help="The other budget.")] = 3,
    quantizers: Annotated[str, typer.Option(help="Of the ones here, between commas; empty for all.")] = "",
) -> None:
    torch.set_num_threads(1)
    for model in models.split(","):
        for name in quantizers.split(";") if quantizers else _QUANTIZERS:
            _judge({**zoo.ENTRIES, **x86_zoo.ENTRIES}[model], name, measure, gain, float_layers)


if __name__ == "__main__":
    typer.run(main)
