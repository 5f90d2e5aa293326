"""Replace every observer by a quantize op and a dequantize op for each user.

Requires a prepared graph. Ensures: no observer is left; every dequantize has one user, as backends' matchers expect;
a quantize op carries the provenance of the op that makes its tensor, a dequantize op that of the op that reads it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from quantizer_sdk.constants import Constants, constant_nodes, erase_unused
from quantizer_sdk.decision import DECISION_KEY, RECORD_KEY
from quantizer_sdk.dtypes import CODE_RANGES, is_cast
from quantizer_sdk.errors import CalibrationError, NonFiniteError, QuantizerError, UncalibratedError
from quantizer_sdk.observers.create import is_calibrated, is_observer_call
from quantizer_sdk.observers.derived import DerivedObserver, replace_observers
from quantizer_sdk.observers.seen import SEEN_KEY, Seen, seen_by
from quantizer_sdk.passes.fit_bias import fit_bias
from quantizer_sdk.passes.observer_qparams import Chosen, QParamsMaker
from quantizer_sdk.provenance import describe, listed, value_of
from quantizer_sdk.qdq import QParams, emit_cast, emit_dequantize, emit_quantize, quantize
from quantizer_sdk.spec import ANNOTATION_KEY

__all__ = ["QDQWriter", "observers_to_qdq"]

# What a node knows about itself; all else that it carries tells where it comes from.
_OF_ITSELF = frozenset(
    (
        *("val", "tensor_meta", "example_value", "unbacked_bindings"),
        *(ANNOTATION_KEY, DECISION_KEY, RECORD_KEY, SEEN_KEY),
    )
)


def observers_to_qdq(model: GraphModule, *, fold_quantize: bool = True, tensor_qparams: bool = False) -> None:
    """Convert all observers, or none.

    Args:
        model: The prepared graph.
        fold_quantize: Whether a constant gets a dequantize op only, of codes that are computed now.
        tensor_qparams: Whether static per-tensor qparams become buffers instead of numbers in the graph.

    Raises:
        UncalibratedError: Observers have seen no data; names each.
        CalibrationError: An observer of another library fails to choose qparams.
        NonFiniteError: It yields a scale that is no positive number.
        UnsupportedError: A bias overflows its derived scale, or an observer's granularity needs run-time qparams.
    """
    modules = dict(model.named_modules())
    calls = [node for node in model.graph.nodes if is_observer_call(node, modules)]
    writer = QDQWriter(model, calls, modules, fold_quantize=fold_quantize, tensor_qparams=tensor_qparams)
    for call in calls:
        writer.write(call)
    for name in dict.fromkeys(str(call.target) for call in calls):
        delattr(model, name)


class QDQWriter:
    """Replaces the calls of observers one by one, for all of whom qparams are chosen at the start.

    Args:
        model: The prepared graph.
        calls: The calls.
        modules: The observers among the model's modules, by path; they stay as they are.
        fold_quantize: As in `observers_to_qdq`, and so is `tensor_qparams`, and what is raised.
    """

    def __init__(
        self,
        model: GraphModule,
        calls: list[Node],
        modules: Mapping[str, nn.Module],
        *,
        fold_quantize: bool = True,
        tensor_qparams: bool = False,
    ) -> None:
        self._model = model
        self._fold_quantize = fold_quantize
        self._modules = {}
        for path, module in modules.items():  # a fake quantizer's derived qparams are derived anew
            inner = module._modules.get("activation_post_process")
            self._modules[path] = inner if isinstance(inner, DerivedObserver) else module
        self._constants, self._constant = Constants(model), constant_nodes(model.graph)
        static = [call for call in calls if _is_static(self._modules[str(call.target)])]
        _observe_constants(static, self._modules, self._constants, self._constant)
        _refuse_uncalibrated(static, self._modules)
        self._chosen: dict[str, Chosen] = {}
        _choose(static, self._modules, self._chosen)
        again = fit_bias(static, self._modules, self._chosen, self._constants, self._constant)
        _choose(again, self._modules, self._chosen)
        self._maker = QParamsMaker(model, self._constants, tensor_qparams=tensor_qparams)
        self._examples = _Examples()
        self._seen: dict[str, Seen] = {}

    def write(self, call: Node) -> None:
        """Put the ops that an observer comes to in the place of one of its calls."""
        model, name, examples = self._model, str(call.target), self._examples
        observer: Any = self._modules[name]
        tensor = call.all_input_nodes[0]
        with model.graph.inserting_before(call):
            if is_cast(observer.dtype):
                _cast(model, call, tensor, observer, examples)
            elif observer.dtype not in CODE_RANGES:
                call.replace_all_uses_with(tensor)
                model.graph.erase_node(call)
            elif getattr(observer, "is_dynamic", False):
                _replace(model, call, tensor, self._maker.dynamic(observer, tensor), observer, examples)
            elif getattr(observer, "keep_float", False) and tensor in self._constant:
                _round_constant(model, self._constants, call, tensor, observer, self._chosen[name])
            else:
                qparams = self._maker.static(name, observer, self._chosen[name], tensor)
                codes = None
                if self._fold_quantize and tensor.op == "get_attr" and tensor in self._constant:
                    codes = _codes_of_constant(self._constants, call, tensor, qparams)
                _replace(model, call, tensor, qparams, observer, examples, codes, self._seen_by(name, observer))

    def _seen_by(self, name: str, observer: Any) -> Seen:
        """Return what an observer knows, for reports on the converted model."""
        if name not in self._seen:
            self._seen[name] = seen_by(observer, *self._chosen[name])
        return self._seen[name]


def _is_static(observer: Any) -> bool:
    """Whether an observer's qparams are chosen at conversion."""
    return observer.dtype in CODE_RANGES and not getattr(observer, "is_dynamic", False)


def _observe_constants(
    calls: list[Node], modules: dict[str, nn.Module], constants: Constants, constant: set[Node]
) -> None:
    """Show weights to observers that have not seen them: they need no calibration data."""
    seeing: dict[nn.Module, nn.Module] = {}
    for call in calls:
        tensor, observer = call.all_input_nodes[0], modules[str(call.target)]
        if tensor in constant and not isinstance(observer, DerivedObserver) and not is_calibrated(observer):
            watcher = seeing.setdefault(observer, copy.deepcopy(observer))
            with torch.no_grad():
                watcher(constants.compute(tensor, {}))
    if seeing:
        replace_observers(modules, seeing)


def _refuse_uncalibrated(calls: list[Node], modules: dict[str, nn.Module]) -> None:
    missing = {
        str(call.target): describe(call.all_input_nodes[0])
        for call in calls
        if not is_calibrated(modules[str(call.target)])
    }
    if missing:
        names = listed([f"{name} on the output of {where}" for name, where in missing.items()], 20)
        message = (
            f"{len(missing)} of {len({call.target for call in calls})} observers have seen no data: {names}. "
            "Run the prepared model on calibration data before convert_pt2e, on inputs that reach these tensors"
        )
        raise UncalibratedError(message)


class _Known:
    """An observer whose qparams are chosen already, as those that derive theirs from it see it."""

    def __init__(self, observer: nn.Module, chosen: Chosen) -> None:
        self._observer = observer
        self._chosen = chosen

    def calculate_qparams(self) -> Chosen:
        return self._chosen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._observer, name)


def _choose(calls: list[Node], modules: dict[str, nn.Module], chosen: dict[str, Chosen]) -> None:
    """Choose the qparams of these observers, sources before what derives from them."""
    known = {modules[name]: _Known(modules[name], qparams) for name, qparams in chosen.items()}
    names = dict.fromkeys(str(call.target) for call in calls)
    for name in sorted(names, key=lambda name: isinstance(modules[name], DerivedObserver)):
        observer: Any = modules[name]
        if isinstance(observer, DerivedObserver):
            qparams = observer.derive([known.get(source, source) for source in observer.sources])
        else:
            try:
                qparams = observer.calculate_qparams()
            except QuantizerError:
                raise
            except Exception as e:  # other libraries raise whatever they like, plain Exception included
                message = f"{_words(name, calls)}, a {type(observer).__name__}, fails to choose qparams: {e}"
                raise CalibrationError(message) from e
        scale, _zero_point = qparams
        if not (
            0 < float(scale) < math.inf if scale.numel() == 1 else bool((torch.isfinite(scale) & (scale > 0)).all())
        ):
            message = f"{_words(name, calls)} yields a scale that is no positive number"
            raise NonFiniteError(message)
        chosen[name] = qparams
        known[observer] = _Known(observer, qparams)


def _words(name: str, calls: list[Node]) -> str:
    """Name an observer and where it sits."""
    call = next(call for call in calls if str(call.target) == name)
    return f"{name} on the output of {describe(call.all_input_nodes[0])}"


def _codes_of_constant(constants: Constants, call: Node, tensor: Node, qparams: QParams) -> Node:
    """Store the codes of a constant, in its place where nothing else reads it, and read them."""
    scale, zero_point = (
        constants.read(it) if isinstance(it, Node) else it for it in (qparams.scale, qparams.zero_point)
    )
    values = dataclasses.replace(qparams, scale=scale, zero_point=zero_point)  # type: ignore[arg-type]
    codes = quantize(constants.read(tensor).detach(), values)
    call.args = ()
    constants.release(tensor)
    return constants.add(str(tensor.target), codes, like=tensor)


def _round_constant(
    model: GraphModule, constants: Constants, call: Node, tensor: Node, observer: Any, chosen: Chosen
) -> None:
    """Replace a constant by its value rounded to the codes, computed in float64 and stored in the same float type."""
    scale, zero_point = (value.detach().to(torch.float64) for value in chosen)
    value = constants.compute(tensor, {}).detach()
    if observer.ch_axis is not None:
        shape = [-1 if axis == observer.ch_axis else 1 for axis in range(value.dim())]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    codes = torch.clamp(torch.round(value.double() / scale) + zero_point, observer.quant_min, observer.quant_max)
    call.args = ()
    for unread in erase_unused(tensor):
        constants.release(unread)
    target = str(tensor.target) if tensor.op == "get_attr" else f"{tensor.name}_rounded"
    rounded = constants.add(target, ((codes - zero_point) * scale).to(value.dtype), like=tensor)
    call.replace_all_uses_with(rounded)
    model.graph.erase_node(call)


class _Examples:
    """Example values of codes. Equal ones are one object: making one takes longer than making its node."""

    def __init__(self) -> None:
        self._made: dict[Any, torch.Tensor] = {}

    def of(self, value: Any, dtype: torch.dtype) -> torch.Tensor | None:
        """Return an example like `value`, of another dtype; None where there is no tensor to be like."""
        if not isinstance(value, torch.Tensor):
            return None
        if not all(isinstance(size, int) for size in value.shape):
            return value.to(dtype)
        key = (id(getattr(value, "fake_mode", None)), value.device, value.shape, value.stride(), dtype)
        if key not in self._made:
            self._made[key] = value.to(dtype)
        return self._made[key]


def _float_dtype(tensor: Node, observer: Any) -> torch.dtype | None:
    """Return the float type of what an observer watches; None where neither graph nor calibration told."""
    value = value_of(tensor)
    found = value.dtype if isinstance(value, torch.Tensor) else getattr(observer, "value_dtype", None)
    return found if isinstance(found, torch.dtype) else None


def _cast(model: GraphModule, call: Node, tensor: Node, observer: Any, examples: _Examples) -> None:
    """Round to a smaller float type, once, and return for each user."""
    value, out_dtype = value_of(tensor), _float_dtype(tensor, observer) or torch.float32
    small = emit_cast(model.graph, tensor, observer.dtype)
    _describe(small, tensor, call, examples.of(value, observer.dtype))
    _return_to_users(call, tensor, small, lambda: emit_cast(model.graph, small, out_dtype))


def _replace(
    model: GraphModule,
    call: Node,
    tensor: Node,
    qparams: QParams,
    observer: Any,
    examples: _Examples,
    codes: Node | None = None,
    seen: Seen | None = None,
) -> None:
    value = value_of(tensor)
    first_user = next(iter(call.users), tensor)
    for node in (qparams.scale, qparams.zero_point):
        if isinstance(node, Node) and node.op == "call_function":
            _describe(node, tensor, first_user, None)
            _describe(node.all_input_nodes[0], tensor, first_user, None)
    if codes is None:
        codes = emit_quantize(model.graph, tensor, qparams)
        _describe(codes, tensor, first_user, examples.of(value, qparams.dtype))
        codes.meta.update({} if seen is None else {SEEN_KEY: seen})
    out_dtype, made = _float_dtype(tensor, observer), codes

    def emit() -> Node:
        node = emit_dequantize(model.graph, made, qparams, out_dtype)
        node.meta.update({} if seen is None else {SEEN_KEY: seen})
        return node

    _return_to_users(call, tensor, made, emit)


def _return_to_users(call: Node, tensor: Node, codes: Node, emit: Callable[[], Node]) -> None:
    """Give each user of an observer call a node of its own that returns the codes to float; the call goes."""
    for user in list(call.users):
        real = emit()
        _describe(real, user, tensor, value_of(tensor))
        user.replace_input_with(call, real)
    call.graph.erase_node(call)
    if not codes.users:
        codes.graph.erase_node(codes)


def _describe(node: Node, owner: Node, other: Node, value: Any) -> None:
    """Give a new node the provenance of its owner; of `other` where the owner, such as a weight, has none."""
    source = owner if owner.meta.get("stack_trace") or owner.meta.get("nn_module_stack") else other
    node.meta.update({key: item for key, item in source.meta.items() if key not in _OF_ITSELF})
    if value is not None:
        node.meta["val"] = value
