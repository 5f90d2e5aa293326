"""Backends with one defect each for fuzzing to find, on kernels in software; and the scripts that run these."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.fx import GraphModule, Node

from quantizer_sdk import Profile, QuantizationSpec, SharedQuantizationSpec
from quantizer_sdk.conformance.mutants.altered import KEY, altered, annotated
from quantizer_sdk.conformance.mutants.emulated import predicted
from quantizer_sdk.conformance.mutants.healthy import healthy, profile_of, runner_with
from quantizer_sdk.conformance.oracle import Site
from quantizer_sdk.observers import MinMaxObserver
from quantizer_sdk.profile import Arithmetic, Family

aten = torch.ops.aten
CATS = {aten.cat.default, aten.concat.default, aten.concatenate.default}

RIGHT = """
def run(model, inputs):
    with torch.no_grad():
        return model(*inputs)


def floats(model, inputs):
    return []
"""

OFF_BY_ONE_SCRIPT = '''
class _OffByOne(torch.fx.Interpreter):
    """Runs a graph as torch does, but for products."""

    def run_node(self, n):
        result = super().run_node(n)
        product = n.op == "call_function" and n.all_input_nodes and "mul" in str(n.all_input_nodes[0].target)
        return (result.int() + 1).clamp(-128, 127).to(torch.int8) if product else result


def run(model, inputs):
    return _OffByOne(torch.export.export(model, inputs, strict=False).module()).run(*inputs)
'''

REFUSES = """
def run(model, inputs):
    raise RuntimeError("no kernel for this")


def floats(model, inputs):
    return ["Convert(fp32)"]
"""


def _own_operands(model: GraphModule) -> None:
    """Let each operand of a concatenation keep its own qparams."""
    for node, annotation in annotated(model):
        if node.target in CATS:
            for producer in annotation.input_qspec_map:
                annotation.input_qspec_map[producer] = SharedQuantizationSpec(producer)
            own = QuantizationSpec(torch.int8, MinMaxObserver, -128, 127, torch.per_tensor_symmetric)
            annotation.output_qspec = own


def _unquantized(model: GraphModule) -> None:
    """Leave sums without an annotation."""
    for node, _ in list(annotated(model)):
        if node.target is aten.add.Tensor:
            del node.meta[KEY]


def _one_more(site: Site, profile: Profile, node: Node) -> torch.Tensor:
    codes = predicted(site, profile, node)
    product = site.value.family is Family.MUL
    return (codes + 1).clamp(-128, 127) if product else codes


HEALTHY = replace(healthy(), runner=replace(runner_with(profile_of(healthy())), script=RIGHT))
UNSHARED_CAT = altered(HEALTHY, annotate=_own_operands)
FLOAT_SUM = altered(HEALTHY, annotate=_unquantized)
OFF_BY_ONE = replace(HEALTHY, runner=replace(runner_with(profile_of(HEALTHY), _one_more), script=OFF_BY_ONE_SCRIPT))
HIDDEN = replace(OFF_BY_ONE, runner=replace(OFF_BY_ONE.runner, script=None))
REFUSING = replace(HEALTHY, runner=replace(HEALTHY.runner, script=REFUSES))

FALSE_PROFILE = replace(profile_of(HEALTHY), arithmetic={**profile_of(HEALTHY).arithmetic, Family.ADD: Arithmetic()})
"""Says of XNNPACK's sums that they multiply by one float32 number and round half to even."""
