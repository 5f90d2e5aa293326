"""What to do about a model's float work and noise, what gains most first."""

from __future__ import annotations

import math
from collections.abc import Iterator

from quantizer_sdk.debug import Comparison, LayerError
from quantizer_sdk.decibels import in_db, to_db
from quantizer_sdk.mixed import LayerSensitivity, Sensitivity
from quantizer_sdk.model_report.content import Advice
from quantizer_sdk.report import Explanation, Finding, OpRecord

__all__ = ["advice_of"]

_WORTH_A_RULE = 0.2
"""dB that a layer must gain the outputs: less is chance on few samples."""
_NOISY = 0.05
"""A layer with a smaller share of all own noise is not worth a word."""
_MOST_LAYERS = 5
_NO_NEED = ("nothing",)
_LOW = 20.0
"""Below that many dB the model as a whole is worth the time of a search."""


def advice_of(
    explanation: Explanation, comparison: Comparison | None, sensitivity: Sensitivity | None = None
) -> tuple[Advice, ...]:
    """Return what to do, in order of expected gain.

    Advice on noise and on float work are sorted by the same measure: the share of it that would go away.

    Args:
        explanation: What became of the ops.
        comparison: Says where noise arises, if there is no
        sensitivity: which says what the outputs gain by each layer.
    """
    found = [*_on_float_work(explanation), *_on_the_whole(comparison)]
    if sensitivity is not None:
        found += _on_sensitive_layers(explanation, sensitivity)
    elif comparison is not None:
        found += _on_noisy_layers(explanation, comparison)
    return tuple(sorted(found, key=lambda advice: -advice.order))


def _on_float_work(explanation: Explanation) -> Iterator[Advice]:
    """Join float ops with the same reason and the same remedy."""
    groups: dict[tuple[str, str], list[OpRecord]] = {}
    for op in explanation.float_ops():
        if op.advice and not op.advice.startswith(_NO_NEED):
            groups.setdefault((op.reason or "", op.advice), []).append(op)
    whole = sum(explanation.macs(state) for state in {op.state for op in explanation.ops})
    for (reason, advice), ops in groups.items():
        share = sum(op.macs or 0 for op in ops) / whole if whole else 0.0
        gain = f"{100 * share:.1f} % of the work" if share >= 0.001 else _counted(len(ops), "float op")
        yield Advice(
            text=f"{_sentence(reason)} {_sentence(advice)}",
            gain=gain,
            rows=tuple(op.node for op in ops),
            order=max(share, 1e-4 * len(ops) / max(len(explanation.ops), 1)),
        )


def _on_the_whole(comparison: Comparison | None) -> Iterator[Advice]:
    outputs = () if comparison is None else comparison.outputs
    worst = min((output.sqnr for output in outputs), default=math.inf)
    if comparison is not None and worst < _LOW:  # which helps most where no layer stands out
        yield Advice(
            text=f"An output has {worst:.1f} dB. `quantizer-sdk tune` tries other ranges, smoothing, equalization and "
            "corrected biases on your data, and says what each brings.",
            gain="to be measured",
            order=1 - max((layer.blame or 0.0 for layer in comparison.layers), default=0.0),
        )


def _on_sensitive_layers(explanation: Explanation, sensitivity: Sensitivity) -> Iterator[Advice]:
    """Say what the outputs gain where a layer is left float or gets a finer config."""
    findings = _findings(explanation)
    for layer in sensitivity.ranked()[:_MOST_LAYERS]:
        if layer.gain < _WORTH_A_RULE:
            continue
        measured = "" if layer.measured_gain is not None else "about "
        causes = [finding for op in layer.ops for finding in findings.get(op, ())]
        yield Advice(
            text=f"{layer.name or 'The ops outside all submodules'}: {_remedy(layer.name, causes)}",
            gain=f"{measured}{layer.gain:.1f} dB",
            rows=_shown(layer, explanation),
            order=1 - 10 ** (-layer.gain / 10),
        )


def _shown(layer: LayerSensitivity, explanation: Explanation) -> tuple[str, ...]:
    known = {op.node for op in explanation.ops if op.state != "folded"}
    return tuple(op for op in layer.ops if op in known)


def _on_noisy_layers(explanation: Explanation, comparison: Comparison) -> Iterator[Advice]:
    findings = _findings(explanation)
    for layer in comparison.ranked()[:_MOST_LAYERS]:
        if layer.blame is None or layer.blame < _NOISY:
            continue
        causes = [finding for member in layer.members for finding in findings.get(member, ())]
        yield Advice(
            text=f"{_where(layer)} adds {100 * layer.blame:.0f} % of the noise. {_remedy(layer.module, causes)}",
            gain=f"up to {_gain(layer.blame)}",
            rows=(layer.node,),
            order=layer.blame,
        )


def _findings(explanation: Explanation) -> dict[str, list[Finding]]:
    findings: dict[str, list[Finding]] = {}
    for finding in explanation.warnings:
        findings.setdefault(finding.node, []).append(finding)
    return findings


def _remedy(module: str, causes: list[Finding]) -> str:
    if causes:
        told = (f"{cause.message}; {cause.advice}" if cause.advice else cause.message for cause in causes)
        return " ".join(_sentence(words) for words in told)
    if module:
        return (
            f"Leave it float or give it a finer config by set_module_name({module!r}, ...), or let mixed_precision "
            "find the fewest such rules."
        )
    return "Leave it float by set_filter_function, or give the op another config."


def _where(layer: LayerError) -> str:
    return f"{layer.module} ({layer.op})" if layer.module else layer.op


def _gain(share: float) -> str:
    return "all of it" if share >= 1 else in_db(to_db(1.0, 1 - share))


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _sentence(words: str) -> str:
    words = words.strip()
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '?', '!')) else '.'}" if words else ""
