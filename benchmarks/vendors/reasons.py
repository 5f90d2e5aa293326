"""Why two engines differ on a model: each reason is shown by taking its cause away, and seeing them agree."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule

from quantizer_sdk.observers.derived import is_derived
from quantizer_sdk.passes.compose_ops import compose_norms
from quantizer_sdk.passes.fold_batch_norm import fold_batch_norm
from quantizer_sdk.passes.fold_quantized_constants import fold_quantized_constants
from quantizer_sdk.passes.remove_guards import remove_guards
from quantizer_sdk.passes.remove_identities import remove_identities
from vendors.engines import Converted, Difference, compared, exported, on_ours, on_torchao
from vendors.models import built
from vendors.quantizers import Vendor

__all__ = ["NOTES", "Cell", "judged"]

NOTES = {
    "norm": "Batch norm is folded in float64 here, in float32 there. Both agree once it is folded beforehand.",
    "dropout": "Dropout is gone here before the quantizer looks. Both agree on the model without it.",
    "readers": "Each reader of codes has a dequantize of its own here; there those of codes made at run time, or "
    "that no annotated op reads, share one. The values are the same.",
    "constants": "What is quantized twice on the way from a constant is computed at conversion here. Both agree once "
    "it is computed there too.",
    "guards": "Export's guards are a call of a module in the graph: on torchao's engine vendors' passes fail on it, "
    "or take it for an observer. Here quantizers never see them. Both agree on a graph without guards.",
    "counter": "The quantizer annotates the addition to a norm's counter: torchao's engine fake quantizes an integer, "
    "and fails; here integers are left alone.",
    "statistics": "A norm decomposed in training mode, whose new statistics are copied over the old: backward fails on "
    "that there; here the norm gets back the form that trains.",
    "nothing": "The quantizer claims nothing: an error here, a float model in silence there.",
    "bias": "A bias with derived qparams is rounded in training here, as the kernel will. Both agree where it is not.",
    "training": "Norms or dropouts in training: torchao's engine replaces eps, momentum and rates, folds in float32, "
    "or leaves the norm in the graph.",
    "axis": "The fake quantizer knows channels on axis 0 alone: an error here. torchao drops the axis that the "
    "quantizer asked for, and trains along the wrong one.",
    "observer": "Points that share have specs with different observers: here the producer's own is taken, there the "
    "first one in the graph.",
    "sharing": "Two calls of a layer read one bias, with qparams derived from each call's input: here each has its "
    "own, there the second is rounded by the first one's.",
    "order": "The quantizer goes through sets: on torchao's engine too it annotates one way in one run, another way in "
    "the next (the example's, where a layer is called twice; by luck, its runs may agree).",
    "own ops": "The vendor's observer writes ops of its own by `convert`, and names codes that its type has not: "
    "refused by name here.",
    "scheme": "`torch.per_channel_affine_float_qparams` is refused by name here.",
    "vendor": "The vendor's own code fails on both, or leaves an annotation that both refuse.",
    "derived": "A bias with derived qparams before a batch norm: `as_torchao` refuses it for training, by name.",
}
"""What each reason means, in the words of the page."""


_Pass = Callable[[GraphModule], None]


def _remove_counters(model: GraphModule) -> None:
    """Let no norm count its batches; nothing reads the number where the norm has a momentum."""
    for node in list(model.graph.nodes):
        if node.op == "get_attr" and node.target.endswith("num_batches_tracked"):
            for user in list(node.users):
                model.graph.erase_node(user)
            model.graph.erase_node(node)


# What torchao's engine fails on: the words of its errors, and what spares it that.
_FAILURES: dict[str, tuple[tuple[str, ...], _Pass]] = {
    "guards": (("_guards_fn", "call_module", "when running the"), remove_guards),
    "counter": (("not implemented for 'Long'",), _remove_counters),
    "statistics": (("modified by an inplace operation",), compose_norms),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One model, one quantizer: the reasons why the engines differ; none where they agree.

    Attributes:
        reasons: Keys of `NOTES`; "?" for a difference that nothing explains.
        quantizes: How many quantize ops the model has here.
        detail: The difference or the errors, for whoever has to find an unknown reason.
    """

    reasons: tuple[str, ...]
    quantizes: int
    detail: str = ""


def judged(name: str, vendor: Vendor, *, training: bool) -> Cell:
    """Quantize one model on both engines and say how they differ."""
    model, batches = exported(name, vendor, training=training)
    ours = on_ours(model, vendor, batches, training=training)
    theirs = on_torchao(model, vendor, batches, training=training)
    if ours.error is None and theirs.error is None:
        difference = compared(ours, theirs, batches)
        if difference.none:
            return Cell((), ours.quantizes)
        if not training and not _repeats(model, vendor, theirs, batches):
            return Cell(("order",), ours.quantizes, str(difference))
        reasons = _seen(difference) or _computed(ours, theirs, batches) or _shown(name, vendor, training=training)
        return Cell(reasons, ours.quantizes, str(difference))
    detail = f"here: {_short(ours)}; there: {_short(theirs)}"
    for reason, (words, spared) in _FAILURES.items():
        if any(word in (theirs.error or "") for word in words):
            return Cell((reason, *_past(name, vendor, spared, training=training)), ours.quantizes, detail)
    return Cell((_named(ours, theirs),), ours.quantizes, detail)


def _repeats(model: GraphModule, vendor: Vendor, theirs: Converted, batches: Sequence[torch.Tensor]) -> bool:
    """Whether torchao's engine makes the same of a model several times."""
    again = (on_torchao(model, vendor, batches, training=False) for _ in range(4))
    return all(it.error is None and compared(it, theirs, batches).none for it in again)


def _past(name: str, vendor: Vendor, spared: _Pass, *, training: bool) -> tuple[str, ...]:
    """Return what else tells the engines apart once torchao's is spared what it fails on; "?" if it fails still."""
    without = _again(name, vendor, training=training, prepare_theirs=(spared,))
    if without is None:
        return ("?",)
    if without.none:
        return ()
    return _seen(without) or _shown(name, vendor, training=training, always=(spared,))


def _seen(difference: Difference) -> tuple[str, ...]:
    """Return the reason that the difference itself shows: more dequantize ops, the same values."""
    if difference.constants:
        return ("constants",)
    only = all(op.startswith("quantized_decomposed.dequantize") and count > 0 for op, count in difference.ops)
    return ("readers",) if only and not difference.expressions and not difference.outputs else ()


def _computed(ours: Converted, theirs: Converted, batches: Sequence[torch.Tensor]) -> tuple[str, ...]:
    """Return the reason that computing all quantized constants on their side shows."""
    model = copy.deepcopy(theirs.model)
    assert model is not None
    fold_quantized_constants(model)
    return ("constants",) if compared(ours, Converted(model), batches).none else ()


# What torchao's engine is spared, by reason.
_PTQ: dict[tuple[str, ...], tuple[_Pass, ...]] = {
    ("guards",): (remove_guards,),
    ("dropout",): (remove_identities,),
    ("norm",): (compose_norms, fold_batch_norm),
    ("dropout", "norm"): (remove_identities, compose_norms, fold_batch_norm),
}


def _shown(name: str, vendor: Vendor, *, training: bool, always: tuple[_Pass, ...] = ()) -> tuple[str, ...]:
    """Return the reason whose removal makes the engines agree; "?" if none does."""
    module, _batches = built(name)
    if not training:
        for reasons, passes in _PTQ.items():
            without = _again(name, vendor, training=False, prepare_theirs=(*always, *passes))
            if without is not None and (without.none or _seen(without)):
                return reasons if without.none else (*reasons, "readers")
        return (vendor.known.get(name, "?"),)
    without = _again(name, vendor, training=True, prepare_theirs=always, float_biases=True)
    if without is not None and (without.none or _seen(without)):
        return ("bias",) if without.none else ("bias", "readers")
    kinds = (nn.modules.batchnorm._BatchNorm, nn.Dropout)
    if any(isinstance(part, kinds) for part in module.modules()):
        return ("training",)
    return (vendor.known.get(name, "?"),)


def _again(
    name: str,
    vendor: Vendor,
    *,
    training: bool,
    prepare_theirs: Sequence[_Pass] = (),
    float_biases: bool = False,
) -> Difference | None:
    """Compare again with a cause taken away; None where an engine fails."""
    model, batches = exported(name, vendor, training=training)
    adjust = _leave_biases if float_biases else None
    ours = on_ours(model, vendor, batches, training=training, adjust=adjust)
    for run in prepare_theirs:
        run(model)
    model.recompile()
    theirs = on_torchao(model, vendor, batches, training=training)
    if ours.error or theirs.error:
        return None
    difference = compared(ours, theirs, batches)
    return dataclasses.replace(difference, constants=bool(_computed(ours, theirs, batches)))


def _leave_biases(prepared: GraphModule) -> None:
    """Let no bias with derived qparams be rounded in training; conversion rounds it all the same."""
    for module in prepared.modules():
        if is_derived(module) and hasattr(module, "disable_fake_quant"):
            module.disable_fake_quant()


def _short(converted: Converted) -> str:
    return "converted" if converted.error is None else converted.error.replace("\n", " ")[:160]


def _named(ours: Converted, theirs: Converted) -> str:
    """Return the reason for an error."""
    here, there = ours.error or "", theirs.error or ""
    if here.startswith("NothingAnnotatedError") and (
        theirs.quantizes == 0 or there.startswith("NothingAnnotatedError")
    ):
        return "nothing"
    if "only supported on axis == 0" in here:
        return "axis"
    if "qscheme is torch.per_channel_affine_float_qparams" in here:
        return "scheme"
    if here.startswith(("InvalidSpecError", "UnsupportedError")) and ("does not fit" in here or "of its own" in here):
        return "own ops"
    if "behind it and a bias with derived qparams" in there:
        return "derived"
    if here and there:
        return "vendor"
    return "?"
