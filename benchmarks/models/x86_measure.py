"""Everything measured of one model on x86, in a process of its own: `python -m models.x86_measure NAME --json OUT`."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.duel import duel
from models.entry import Entry
from models.outputs import flat
from models.x86_programs import PROGRAMS, Subject, X86Program
from models.x86_zoo import ENTRIES, TRANSFORMERS, WITH_OUTLIERS, WITH_TRAINED_DEPTHWISE
from quantizer_sdk import smooth_quant
from quantizer_sdk.demo.metrics import interleaved_times, median_interval, noise_percent, sqnr_db
from quantizer_sdk.errors import MissingDependencyError

__all__ = ["Figures", "Measured", "Speed", "measure"]

_WARM_UP = 3
_ROUND_SECONDS = 0.02
_DUEL = ("onnx ours", "onnx quantize_static")


@dataclass(frozen=True, slots=True)
class Speed:
    """How many times as fast as another program one is.

    Attributes:
        median: Of their ratios, in the same round or the same process.
        low: From here to
        high: here the true median lies, 19 times of 20.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f}x ({self.low:.3f} to {self.high:.3f})"


@dataclass(kw_only=True)
class Figures:
    """One program's figures; after an error those that were still found.

    Attributes:
        error: What went wrong.
        times: Of one call in each round, in ms of CPU time on one thread.
        seconds: That quantizing, lowering and the first call took, and
        lowering: without calibration; None where nothing is quantized.
        sqnr: Of its outputs against the float model, in dB.
        cosine: Mean cosine of its outputs with the float model's.
        graph_sqnr: Of the q/dq graph against the float model, in dB.
        kernel_noise: Power of the noise q/dq graph -> program in percent of that of float -> q/dq graph, and
        own_noise: of the noise q/dq graph -> the same graph on torch's other float kernels.
        size: In bytes.
        integer: Kernels that compute on integers.
        floats: Kernels that compute in float.
        layers: Convolutions and linears of the model, and
        left_float: how many of them the quantizer left float.
    """

    error: str | None = None
    times: list[float] = field(default_factory=list)
    seconds: float | None = None
    sqnr: float | None = None
    cosine: float | None = None
    graph_sqnr: float | None = None
    kernel_noise: float | None = None
    own_noise: float | None = None
    size: int | None = None
    integer: int | None = None
    floats: int | None = None
    layers: int | None = None
    left_float: int | None = None

    @property
    def latency(self) -> float | None:
        """The median of `times`; None if not timed."""
        return statistics.median(self.times) if self.times else None

    def speed(self, other: Figures) -> Speed | None:
        """Return how many times as fast as another program this one is; None where one was not timed."""
        if not self.times or not other.times:
            return None
        ratios = [theirs / own for own, theirs in zip(self.times, other.times, strict=True)]
        return Speed(statistics.median(ratios), *median_interval(ratios))


@dataclass(kw_only=True)
class Measured:
    """One model's figures, or why there are none.

    Attributes:
        name: The model's.
        skipped: Why it was not measured.
        programs: By name, of `PROGRAMS`.
        duel: How many times as fast as `quantize_static`'s file our ONNX file is, in each of several processes.
    """

    name: str
    skipped: str | None = None
    duel: list[float] = field(default_factory=list)
    programs: dict[str, Figures] = field(default_factory=dict)

    @property
    def against_static(self) -> Speed | None:
        """How many times as fast as `quantize_static`'s file our ONNX file is; None if not timed."""
        return Speed(statistics.median(self.duel), *median_interval(self.duel)) if self.duel else None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Measured:
        """Read what `dataclasses.asdict` wrote."""
        return cls(**{**fields, "programs": {name: Figures(**found) for name, found in fields["programs"].items()}})


def measure(entry: Entry, names: tuple[str, ...], rounds: int, *, size: int | None = None) -> Measured:
    """Measure a model; whatever a program raises becomes that program's error.

    Args:
        entry: The model.
        names: Which programs to make, of `PROGRAMS`.
        rounds: Timed rounds; 0 times nothing.
        size: Of its inputs, if not the entry's.
    """
    torch.set_num_threads(1)
    size = entry.size if size is None else size
    result = Measured(name=entry.name)
    try:
        model, inputs = entry.build(size), entry.examples(size, entry.calibration + entry.held_out)
    except MissingDependencyError as e:
        result.skipped = str(e)
        return result
    batches, held_out = inputs[: entry.calibration], inputs[entry.calibration :]
    exported = torch.export.export(model, inputs[0]).module()
    subject = Subject(
        model=model,
        exported=exported,
        batches=batches,
        transformer=entry.name in TRANSFORMERS,
        smoothed=smooth_quant(exported, batches) if entry.name in WITH_OUTLIERS else exported,
        corrected=entry.name in WITH_TRAINED_DEPTHWISE,
    )
    made: dict[str, X86Program] = {}
    with torch.no_grad():
        expected = torch.cat([flat(model(*example)) for example in held_out])
        for name in names:
            if "dynamic" in name and not subject.transformer:
                continue
            figures = result.programs[name] = Figures()
            try:
                made[name] = _judged(PROGRAMS[name], subject, held_out, expected, figures)
            except Exception as e:  # noqa: BLE001  # a peer's failures are of any kind, and are what is to be reported
                figures.error = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
        if rounds and made:
            for name, times in _times(made, held_out[0], rounds).items():
                result.programs[name].times = times
        if rounds and set(_DUEL) <= made.keys():
            result.duel = duel(*(made[name].file or b"" for name in _DUEL), held_out[0])
    return result


def _judged(
    make: Callable[[Subject], X86Program],
    subject: Subject,
    held_out: list[Any],
    expected: torch.Tensor,
    figures: Figures,
) -> X86Program:
    """Make a program and compare it with the float model."""
    start = time.perf_counter()
    program = make(subject)
    program.run(*held_out[0])
    figures.seconds = time.perf_counter() - start
    for name in ("size", "integer", "floats", "layers", "left_float"):
        setattr(figures, name, getattr(program, name))
    found = torch.cat([flat(program.run(*example)) for example in held_out])
    ratio = sqnr_db(expected, found)
    figures.sqnr = ratio if abs(ratio) < float("inf") else None
    rows = len(held_out)
    figures.cosine = float(torch.cosine_similarity(expected.view(rows, -1), found.view(rows, -1)).mean())
    if program.graph is not None:
        graph = torch.cat([flat(program.graph(*example)) for example in held_out])
        figures.graph_sqnr = sqnr_db(expected, graph)
        figures.kernel_noise = noise_percent(expected, graph, found)
        with torch.backends.mkldnn.flags(enabled=False):
            other = torch.cat([flat(program.graph(*example)) for example in held_out])
        figures.own_noise = noise_percent(expected, graph, other)
    return program


def _times(programs: dict[str, X86Program], example: tuple[torch.Tensor, ...], rounds: int) -> dict[str, list[float]]:
    """Return one call's ms in each round; short calls are repeated within a round, so that the clock sees enough."""

    def timed(program: X86Program) -> float:
        start = time.process_time()
        program.run(*example)
        return time.process_time() - start

    calls = {
        name: max(1, round(_ROUND_SECONDS / max(min(timed(program) for _ in range(_WARM_UP)), 1e-6)))
        for name, program in programs.items()
    }

    def repeated(name: str) -> None:
        run = programs[name].run
        for _ in range(calls[name]):
            run(*example)

    turns: dict[str, Callable[[], object]] = {name: functools.partial(repeated, name) for name in programs}
    found = interleaved_times(turns, repeats=rounds, warmup=_WARM_UP, clock=time.process_time)
    return {name: [milliseconds / calls[name] for milliseconds in times] for name, times in found.items()}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(ENTRIES))
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=45)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    found = measure(ENTRIES[options.name], tuple(options.programs), options.rounds)
    options.json.write_text(json.dumps(dataclasses.asdict(found), indent=2), encoding="utf-8")


if __name__ == "__main__":
    _main()
