"""What accuracy tools do to one model, in a process of its own: `python -m models.accuracy SUBJECT --json OUT`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from models import lite0, minilm
from models.entry import Entry
from models.outputs import flat
from quantizer_sdk import explain, tune
from quantizer_sdk.accuracy import TOOLS, Recipe, sqnr
from quantizer_sdk.accuracy.recipe import Kitchen
from quantizer_sdk.backends.onednn import lower_eager
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config
from quantizer_sdk.backends.xnnpack import XNNPACKQuantizer, get_symmetric_quantization_config, lower
from quantizer_sdk.demo.data import load_images
from quantizer_sdk.demo.metrics import top1
from quantizer_sdk.quantizer import Quantizer

__all__ = ["SUBJECTS", "Figures", "Row", "Subject"]


def cosine(expected: list[Any], found: list[Any]) -> float:
    """Return the mean cosine of what a model returns with what the float one does, batch by batch."""
    pairs = zip(expected, found, strict=True)
    return float(torch.stack([torch.cosine_similarity(flat(a), flat(b), dim=0) for a, b in pairs]).mean())


def _x86(**config: bool) -> Callable[[], Quantizer]:
    return lambda: X86Quantizer("onednn").set_global(get_default_x86_quantization_config(**config))


def _xnnpack() -> Quantizer:
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model and the way in which it is quantized.

    Attributes:
        entry: The model.
        make: Returns a fresh quantizer.
        lower: Makes a program of the converted model.
        metric: What is compared, the higher the better.
        bar: What the tuned model must reach.
        recipes: What is measured before `tune`.
        tools: What `tune` tries.
        in_sample: Whether the bar is for a model that all inputs calibrate and judge; else for those held out.
    """

    entry: Entry
    make: Callable[[], Quantizer]
    lower: Callable[..., Any]
    metric: Callable[[list[Any], list[Any]], float]
    bar: float
    recipes: tuple[Recipe, ...]
    tools: tuple[str, ...] = TOOLS
    in_sample: bool = False


_AT_RUN_TIME = (Recipe(), Recipe(smoothing=0.5), Recipe(smoothing=0.75), Recipe(bias="empirical"))
_STATIC = (
    *_AT_RUN_TIME,
    *(Recipe(observer=name) for name in ("min-max", "MSE", "percentile 99.99")),
    Recipe(adaround=True),
)
_NORMED = (
    *_STATIC,
    Recipe(equalization="weights"),
    Recipe(equalization="activations"),
    Recipe(bias="analytic"),
    Recipe(adaround=True, bias="analytic"),
    Recipe(adaround=True, bias="empirical"),
)
"""For networks with batch norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One combination of tools, made of the entry's calibration inputs.

    Attributes:
        name: The tools.
        learned: The metric on these inputs.
        held_out: On those held out.
        top1: How many images of both together get their label; None without labels.
        seconds: Of CPU time that making it took.
        said: What a tool said, such as that it does nothing here.
    """

    name: str
    learned: float | None
    held_out: float | None
    top1: int | None
    seconds: float
    said: str | None


@dataclass(kw_only=True)
class Figures:
    """All of one subject.

    Attributes:
        rows: Each tool alone.
        tuned: The metric of a model tuned with all inputs, on them, for a bar in sample; else of one tuned with the
            calibration inputs, on those held out.
        plain: The same of the quantizer as it is.
        tuned_program: The metric of the tuned model's program, by its kernels.
        best: The tuned model's tools.
        left_float: Its float ops.
        table: What `tune` prints.
        top1: How many labels the float model meets, and
        labels: of how many.
    """

    rows: list[Row] = field(default_factory=list)
    tuned: float = 0.0
    plain: float = 0.0
    tuned_program: float = 0.0
    best: str = ""
    left_float: list[str] = field(default_factory=list)
    table: str = ""
    top1: int | None = None
    labels: int = 0


_QUICK = tuple(tool for tool in TOOLS if tool != "adaround")

SUBJECTS: dict[str, Subject] = {
    "efficientnet_lite0": Subject(
        entry=lite0.ENTRIES[0],
        make=_xnnpack,
        lower=lower,
        metric=sqnr,
        bar=24.0,
        recipes=_NORMED,
        in_sample=True,
    ),
    "minilm": Subject(
        entry=minilm.ENTRIES[0],
        make=_x86(),
        lower=lower_eager,
        metric=cosine,
        bar=0.995,
        recipes=_STATIC,
        tools=_QUICK,
    ),
    "minilm, dynamic": Subject(
        entry=minilm.ENTRIES[0],
        make=_x86(is_dynamic=True, is_per_token=True),
        lower=lower_eager,
        metric=cosine,
        bar=0.999,
        recipes=_AT_RUN_TIME,
        tools=_QUICK,
    ),
}


class _Judge:
    """Judges models on the inputs of one subject."""

    def __init__(self, subject: Subject, exported: GraphModule, inputs: list[Any]) -> None:
        self._metric, self._inputs, self._count = subject.metric, inputs, subject.entry.calibration
        self.labels = load_images().labels if subject.entry is lite0.ENTRIES[0] else None
        self._expected = [exported(*example) for example in inputs]

    def scores(self, model: Callable[..., Any]) -> tuple[float, float, float, int | None]:
        """Return the metric on the calibration inputs, on the others and on all, and how many labels are met."""
        found = [_first(model(*example)) for example in self._inputs]
        met = None if self.labels is None else top1(torch.cat(found), self.labels)
        parts = (slice(None, self._count), slice(self._count, None), slice(None))
        learned, held_out, all_ = (self._metric(self._expected[part], found[part]) for part in parts)
        return learned, held_out, all_, met


def _first(result: Any) -> torch.Tensor:
    value: torch.Tensor = result[0] if isinstance(result, (tuple, list)) else result
    return value


def measure(subject: Subject, budget: float, parts: Collection[str]) -> Figures:
    """Measure each tool alone, and what `tune` makes of all.

    Args:
        subject: The model.
        budget: Seconds for `tune`.
        parts: Both, "alone" and "tuned", or one.
    """
    entry, figures = subject.entry, Figures()
    model = entry.build(entry.size)
    inputs = entry.examples(entry.size, entry.calibration + entry.held_out)
    batches = inputs[: entry.calibration]
    exported = torch.export.export(model, inputs[0]).module()
    with torch.no_grad():
        judge = _Judge(subject, exported, inputs)
        if judge.labels is not None:
            figures.top1, figures.labels = judge.scores(exported)[3], len(judge.labels)
        kitchen = Kitchen(exported, subject.make, batches)
        recipes = subject.recipes if "alone" in parts else (Recipe(),)
        figures.rows = [_row(kitchen, recipe, judge) for recipe in recipes]
        if "tuned" not in parts:
            return figures
        found = tune(
            exported,
            subject.make,
            inputs if subject.in_sample else batches,
            budget_s=budget,
            metric=subject.metric,
            tools=subject.tools,
        )
        figures.best, figures.table = found.best.name, str(found)
        part = 2 if subject.in_sample else 1
        figures.tuned = judge.scores(found.converted)[part]
        figures.plain = (found.refit_default_score if subject.in_sample else figures.rows[0].held_out) or 0.0
        explanation = explain(found.converted)
        figures.left_float = [f"{op.node}: {op.reason}" for op in explanation.float_ops()]
        figures.tuned_program = judge.scores(subject.lower(found.converted, inputs[0]).run)[part]
    return figures


def _row(kitchen: Kitchen, recipe: Recipe, judge: _Judge) -> Row:
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            converted = kitchen.converted(recipe, kitchen.model(recipe))
        except Exception as e:  # noqa: BLE001  # whatever a tool refuses is to be shown
            return Row(name=str(recipe), learned=None, held_out=None, top1=None, seconds=0.0, said=str(e))
    seconds = time.process_time() - start
    learned, held_out, _all, met = judge.scores(converted)
    said = "; ".join(str(it.message) for it in caught if "quantizer_sdk" in it.category.__module__) or None
    return Row(name=str(recipe), learned=learned, held_out=held_out, top1=met, seconds=seconds, said=said)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(SUBJECTS))
    parser.add_argument("--budget", type=float, default=600.0)
    parser.add_argument("--parts", nargs="+", choices=("alone", "tuned"), default=("alone", "tuned"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(SUBJECTS[options.name], options.budget, options.parts)
    options.json.write_text(json.dumps(dataclasses.asdict(found), indent=2), encoding="utf-8")


if __name__ == "__main__":
    _main()
