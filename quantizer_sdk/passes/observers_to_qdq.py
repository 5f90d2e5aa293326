"""Replace every observer by a quantize op and a dequantize op for each user.

Requires a prepared graph. Ensures: no observer is left; every dequantize has one user, as backends' matchers expect;
the new nodes carry the provenance of the tensor that they quantize.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants
from quantizer_sdk.errors import NonFiniteError, UncalibratedError
from quantizer_sdk.observers.create import is_observer
from quantizer_sdk.provenance import describe, value_of
from quantizer_sdk.qdq import QParams, emit_dequantize, emit_quantize
from quantizer_sdk.spec import PER_CHANNEL_SCHEMES

__all__ = ["observers_to_qdq"]

_PROVENANCE = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom", "seq_nr")


def observers_to_qdq(model: GraphModule) -> None:
    """Convert all observers, or none.

    Raises:
        UncalibratedError: Observers have seen no data; names each.
        NonFiniteError: An observer of another library yields a scale that is no positive number.
    """
    modules = dict(model.named_modules())
    calls = [node for node in model.graph.nodes if node.op == "call_module" and is_observer(modules[str(node.target)])]
    constants = Constants(model)
    _observe_constants(calls, modules, constants)
    _refuse_uncalibrated(calls, modules)
    chosen = {str(call.target): _choose(modules[str(call.target)], call) for call in calls}
    stored: dict[str, tuple[Node, Node]] = {}
    for call in calls:
        name = str(call.target)
        tensor = call.args[0]
        assert isinstance(tensor, Node)
        with model.graph.inserting_before(call):
            qparams = _qparams(constants, name, modules[name], chosen[name], tensor, stored)
            _replace(model, call, tensor, qparams)
    for name in dict.fromkeys(str(call.target) for call in calls):
        delattr(model, name)


def _observe_constants(calls: list[Node], modules: dict[str, nn.Module], constants: Constants) -> None:
    """Show weights to observers that have not seen them: they need no calibration data."""
    for call in calls:
        tensor, observer = call.args[0], modules[str(call.target)]
        assert isinstance(tensor, Node)
        if tensor.op == "get_attr" and not _calibrated(observer):
            with torch.no_grad():
                observer(constants.read(tensor))


def _calibrated(observer: nn.Module) -> bool:
    """Whether an observer has seen data; those of other libraries keep it in `min_val`, empty or infinite till then."""
    known = getattr(observer, "calibrated", None)
    if known is not None:
        return bool(known)
    low = getattr(observer, "min_val", None)
    return low is None or (low.numel() > 0 and bool(torch.isfinite(low).all()))


def _refuse_uncalibrated(calls: list[Node], modules: dict[str, nn.Module]) -> None:
    missing = {
        str(call.target): describe(tensor)
        for call in calls
        if isinstance(tensor := call.args[0], Node) and not _calibrated(modules[str(call.target)])
    }
    if missing:
        names = "; ".join(f"{name} on the output of {where}" for name, where in list(missing.items())[:20])
        more = f"; and {len(missing) - 20} more" if len(missing) > 20 else ""
        message = (
            f"{len(missing)} of {len({call.target for call in calls})} observers have seen no data: {names}{more}. "
            "Run the prepared model on calibration data before convert_pt2e, on inputs that reach these tensors"
        )
        raise UncalibratedError(message)


def _choose(observer: Any, call: Node) -> tuple[torch.Tensor, torch.Tensor]:
    scale, zero_point = observer.calculate_qparams()
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        where = describe(call.all_input_nodes[0])
        message = f"{call.target} on the output of {where} yields a scale that is no positive number"
        raise NonFiniteError(message)
    return scale, zero_point


def _qparams(
    constants: Constants,
    name: str,
    observer: Any,
    chosen: tuple[torch.Tensor, torch.Tensor],
    tensor: Node,
    stored: dict[str, tuple[Node, Node]],
) -> QParams:
    scale, zero_point = chosen
    quant_min, quant_max, dtype = observer.quant_min, observer.quant_max, observer.dtype
    if observer.qscheme not in PER_CHANNEL_SCHEMES:
        return QParams(
            scale=float(scale), zero_point=int(zero_point), quant_min=quant_min, quant_max=quant_max, dtype=dtype
        )
    if name not in stored:
        near = str(tensor.target) if tensor.op == "get_attr" else name
        stored[name] = (
            constants.add(f"{near}_scale", scale.detach().to(torch.float32), like=tensor),
            constants.add(f"{near}_zero_point", zero_point.detach().to(torch.int64), like=tensor),
        )
    return QParams(
        scale=stored[name][0],
        zero_point=stored[name][1],
        quant_min=quant_min,
        quant_max=quant_max,
        dtype=dtype,
        ch_axis=observer.ch_axis,
    )


def _replace(model: GraphModule, call: Node, tensor: Node, qparams: QParams) -> None:
    value = value_of(tensor)
    is_tensor = isinstance(value, torch.Tensor)
    provenance = {key: tensor.meta[key] for key in _PROVENANCE if key in tensor.meta}
    codes = emit_quantize(model.graph, tensor, qparams)
    codes.meta.update(provenance)
    if is_tensor:
        codes.meta["val"] = value.to(qparams.dtype)
    for user in list(call.users):
        real = emit_dequantize(model.graph, codes, qparams, value.dtype if is_tensor else None)
        real.meta.update(provenance)
        if is_tensor:
            real.meta["val"] = value
        user.replace_input_with(call, real)
    model.graph.erase_node(call)
    if not codes.users:
        model.graph.erase_node(codes)
