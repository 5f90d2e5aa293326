"""Everything measured of one model, in a process of its own: `python -m models.measure NAME --json OUT`."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch.fx import GraphModule

from models.entry import Entry, Inputs
from models.outputs import flat
from models.outside import outside_although_quantized
from models.result import COLUMNS, Column, Result
from models.schemes import quantize_with_ours, quantize_with_peer
from models.zoo import ENTRIES
from quantizer_sdk import explain
from quantizer_sdk.backend import Executable
from quantizer_sdk.backends.xnnpack import lower
from quantizer_sdk.demo.metrics import interleaved_medians, power, to_db
from quantizer_sdk.errors import MissingDependencyError

__all__ = ["measure"]

_WARM_UP = 3
_ROUND_SECONDS = 0.01


def measure(entry: Entry, columns: tuple[str, ...], rounds: int, *, size: int | None = None) -> Result:
    """Measure a model; whatever a column's quantizer or its program raise becomes that column's error.

    Args:
        entry: The model.
        columns: Which programs to make, of `COLUMNS`.
        rounds: Timed rounds; 0 times nothing.
        size: Of its inputs, if not the entry's.
    """
    size = entry.size if size is None else size
    result = Result(name=entry.name, scheme=entry.scheme_name)
    try:
        model, inputs = entry.build(size), entry.examples(size, entry.calibration + entry.held_out)
    except MissingDependencyError as e:
        result.skipped = str(e)
        return result
    held_out = inputs[entry.calibration :]
    with torch.no_grad():
        expected = [flat(model(*example)) for example in held_out]
    programs = {}
    for name in columns:
        column = result.columns[name] = Column()
        start = time.process_time()
        try:
            exported = torch.export.export(model, inputs[0]).module()
            program = _program(name, entry, exported, inputs[: entry.calibration], column)
            column.seconds = time.process_time() - start
            found = [flat(program.run(*example)) for example in held_out]
        except Exception as e:  # noqa: BLE001  # a peer's failures are of any kind, and are what is to be reported
            column.error = f"{type(e).__name__}: {' '.join(str(e).split())}"
            continue
        column.sqnr = _sqnr(expected, found)
        programs[name] = program
    if rounds and programs:
        for name, latency in _latencies(programs, held_out[0], rounds).items():
            result.columns[name].latency = latency
    return result


def _program(name: str, entry: Entry, exported: GraphModule, batches: list[Inputs], column: Column) -> Executable:
    """Quantize, if the column is to be, lower, and note what became of the ops."""
    explanation = None
    if name != "fp32":
        quantize = {"ours": quantize_with_ours, "peer": quantize_with_peer}[name]
        exported = quantize(entry, exported, batches)
        explanation = explain(exported)
        column.quantized, column.shared = explanation.count("quantized"), explanation.count("shared")
        column.left_float = dict(collections.Counter(f"{op.op}: {op.reason}" for op in explanation.float_ops()))
    program = lower(exported, batches[0])
    delegation = program.delegation()
    column.subgraphs, column.delegated = delegation.subgraphs, delegation.delegated
    column.non_delegated = dict(collections.Counter(delegation.non_delegated))
    if explanation is not None:
        column.outside = outside_although_quantized(explanation, delegation)
    kernels = program.kernels()
    computing = [kernel for kernel in kernels if not kernel.conversion]
    integer = [kernel for kernel in computing if kernel.integer or "qdint8" in kernel.inputs]
    column.integer_nodes, column.float_nodes = len(integer), len(computing) - len(integer)
    column.clamps = sum(kernel.name == "Clamp" for kernel in integer)
    column.conversions = len(kernels) - len(computing)
    column.size = program.size
    return program


def _sqnr(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float | None:
    """Return the signal-to-noise ratio over all examples in dB."""
    signal = sum(power(reference) for reference in expected)
    noise = sum(power(reference - actual) for reference, actual in zip(expected, found, strict=True))
    ratio = to_db(signal, noise)
    return ratio if abs(ratio) < float("inf") else None


def _latencies(programs: dict[str, Executable], example: Inputs, rounds: int) -> dict[str, float]:
    """Return medians of one call in ms. Short calls are repeated within a round, so that the clock sees enough.

    The clock is that of the process's CPU time: on one thread it is the time that passes, without other processes'.
    """

    def timed(program: Executable) -> float:
        start = time.process_time()
        program.run(*example)
        return time.process_time() - start

    longest = max(min(timed(program) for _ in range(_WARM_UP)) for program in programs.values())
    calls = max(1, round(_ROUND_SECONDS / max(longest, 1e-6)))

    def repeated(program: Executable) -> None:
        for _ in range(calls):
            program.run(*example)

    turns: dict[str, Callable[[], object]] = {
        name: functools.partial(repeated, program) for name, program in programs.items()
    }
    medians = interleaved_medians(turns, repeats=rounds, warmup=_WARM_UP, clock=time.process_time)
    return {name: milliseconds / calls for name, milliseconds in medians.items()}


def main() -> None:
    """Measure the model named on the command line, on one thread, and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(ENTRIES))
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=COLUMNS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Private: ExecuTorch has no public setting for the number of threads of its runtime in Python.
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    _unsafe_reset_threadpool(1)
    result = measure(ENTRIES[options.name], tuple(options.columns), options.rounds, size=options.size)
    options.json.write_text(json.dumps(dataclasses.asdict(result)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
