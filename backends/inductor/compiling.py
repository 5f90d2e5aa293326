"""One call of inductor's compiler, without dynamo and without a trace in its global configuration."""

from __future__ import annotations

import contextlib
import re
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from quantizer_sdk.backend import quiet_logs
from quantizer_sdk.backends.inductor.marks import found_again
from quantizer_sdk.backends.inductor.safe_sums import make_sums_safe
from quantizer_sdk.errors import LoweringError, QuantizerError

__all__ = ["Compiled", "Findings", "compile_graph", "compiling", "despite_others", "flatten_outputs", "reporting"]

_HALF_WRITTEN = re.compile(r"(?P<path>\S+\.so): file too short")
_ATTEMPTS, _PAUSE = 20, 0.5
_ABANDONED = 5.0
"""After so many seconds without a change, whoever wrote a file is gone."""
_INTEGER_PRODUCTS = ("onednn::qconv", "onednn::qlinear")


@dataclass(slots=True)
class Findings:
    """What one compilation made of a graph.

    Attributes:
        fused: Names of the products, by their marks, that integer kernels compute.
        source: The generated code.
    """

    fused: frozenset[str] = frozenset()
    source: str = ""

    def look(self, graph: Graph) -> None:
        """Mend a graph of inductor's after its fusions, and note what it fused."""
        make_sums_safe(graph)
        products = [node for node in graph.nodes if _is_integer_product(node.target)]
        self.fused |= found_again(graph, products)


def _is_integer_product(target: object) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.name.startswith(_INTEGER_PRODUCTS)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled graph.

    Attributes:
        call: Takes the tensors and returns the list of results.
        findings: What was found while compiling.
        constants: The tensors that the generated code holds, in bytes.
        accepts: Whether it was compiled for sizes like those of these inputs.
    """

    call: Callable[..., Any]
    findings: Findings
    constants: int
    accepts: Callable[[Sequence[torch.Tensor]], bool]


def flatten_outputs(model: GraphModule) -> None:
    """Give a graph plain arguments, in the order of its placeholders, and a flat tuple of results."""
    output = next(iter(model.graph.find_nodes(op="output")))
    output.args = (tuple(pytree.tree_leaves(output.args[0])),)
    model.graph.set_codegen(CodeGen())
    model.recompile()


def compile_graph(
    model: GraphModule,
    example_inputs: Sequence[torch.Tensor],
    *,
    optimize: bool = True,
    autocast: torch.dtype | None = None,
) -> Compiled:
    """Compile a graph with flat arguments and results.

    Args:
        model: The graph; it is consumed.
        example_inputs: Real tensors, or the fake ones of a graph with open sizes.
        optimize: As for `compiling`.
        autocast: The type in which products that stay float, and the results of the others, are computed.

    Raises:
        LoweringError: Inductor cannot compile it.
    """
    from torch._inductor.compile_fx import compile_fx

    findings = Findings()
    with compiling(findings, optimize=optimize, autocast=autocast), _dropped_modules() as modules:
        call: Any = compile_fx(model, list(example_inputs), decompositions=_decompositions())
    constants = sum(_bytes(value) for module in modules for value in vars(module).values())
    return Compiled(call, findings, constants, _acceptance(example_inputs))


@contextlib.contextmanager
def compiling(findings: Findings, *, optimize: bool = True, autocast: torch.dtype | None = None) -> Iterator[None]:
    """Have inductor compile with our settings, and note what it does, inside the block.

    Args:
        findings: Takes what is found.
        optimize: Whether patterns are matched; without, the same code computes in float between the conversions.
        autocast: As for `compile_graph`.

    Raises:
        LoweringError: In place of whatever the compiler raises.
    """
    from torch._inductor import config

    options = {
        "freezing": optimize,  # without it there is no integer kernel at all
        "pattern_matcher": optimize,
        "fx_graph_cache": False,  # a graph out of the cache passes no pass of ours
        "always_keep_tensor_constants": True,  # else short ones are written anew at every call
        "post_grad_custom_pre_pass": findings.look,
    }
    casting = contextlib.nullcontext() if autocast is None else torch.autocast("cpu", autocast)
    with (
        reporting("compile the model"),
        quiet_logs("torch"),
        torch.no_grad(),
        casting,
        config.patch(options),
        _generated_code(findings),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of torch, over its own code
        yield


def _decompositions() -> dict[Any, Any]:
    """Return what inductor writes out as simpler ops, without matrix products: small ones would match no pattern."""
    from torch._inductor.decomposition import select_decomp_table

    kept = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}
    return {op: rule for op, rule in select_decomp_table().items() if op not in kept}


def _bytes(value: object) -> int:
    """Return the size of a tensor, which may be packed and then has no storage that could be asked."""
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _acceptance(example_inputs: Sequence[torch.Tensor]) -> Callable[[Sequence[torch.Tensor]], bool]:
    """Return a test for the sizes that the compiler took for granted, such as "the batch is less than 16"."""
    shapes = [tensor.shape for tensor in example_inputs]
    mode = next((mode for tensor in example_inputs if (mode := getattr(tensor, "fake_mode", None)) is not None), None)
    if mode is None:
        return lambda inputs: [tensor.shape for tensor in inputs] == shapes
    environment = mode.shape_env
    expression = environment.produce_guards_expression(list(example_inputs))
    if expression is None:
        return lambda _inputs: True
    return lambda inputs: bool(environment.evaluate_guards_expression(expression, list(inputs)))


@contextlib.contextmanager
def _generated_code(findings: Findings) -> Iterator[None]:
    """Note the code that the compiler writes inside the block."""
    from torch._inductor.graph import GraphLowering

    place, name = GraphLowering, "save_output_code"
    kept = vars(place)[name]

    def keep(code: str) -> None:
        findings.source += code

    setattr(place, name, staticmethod(keep))
    try:
        yield
    finally:
        setattr(place, name, kept)


@contextlib.contextmanager
def _dropped_modules() -> Iterator[list[Any]]:
    """Take the modules that are loaded inside the block out of torch's cache, which would hold their weights for ever.

    Yields:
        A list that holds these modules after the block.
    """
    from torch._inductor.codecache import PyCodeCache

    before = {id(module) for module in PyCodeCache.modules}
    loaded: list[Any] = []
    try:
        yield loaded
    finally:
        loaded.extend(module for module in PyCodeCache.modules if id(module) not in before)
        ours = {id(module) for module in loaded}
        PyCodeCache.modules[:] = [module for module in PyCodeCache.modules if id(module) not in ours]
        for path in [path for path, module in PyCodeCache.modules_no_attr.items() if id(module) in ours]:
            del PyCodeCache.modules_no_attr[path]
        for module in loaded:
            PyCodeCache.linemaps.pop(str(module.__file__), None)
            name = str(module.__name__)
            if sys.modules.get(name) is module:
                del sys.modules[name]


def despite_others(compiling: Callable[[], Compiled]) -> Compiled:
    """Compile, and again where another process was found writing the same code.

    Processes share what they compile in one folder, and torch loads what it finds there though the linker may not be
    done with it, or was ended; what is left then is removed.

    Args:
        compiling: Compiles a fresh copy at each call.
    """
    for _ in range(_ATTEMPTS):
        try:
            return compiling()
        except LoweringError as e:  # noqa: PERF203  it takes nothing beside a compilation
            half = _HALF_WRITTEN.search(str(e.__cause__))
            if half is None:
                raise
            with contextlib.suppress(OSError):
                path = Path(half["path"])
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()
            time.sleep(_PAUSE)
    return compiling()


@contextlib.contextmanager
def reporting(action: str) -> Iterator[None]:
    """Turn what torch raises inside the block into a LoweringError that says at what."""
    try:
        yield
    except QuantizerError:
        raise
    except Exception as e:  # the compiler's errors have no public base class
        reason = textwrap.shorten(str(e), 400, placeholder=" ...") or type(e).__name__
        raise LoweringError(f"inductor cannot {action}: {reason}") from e
