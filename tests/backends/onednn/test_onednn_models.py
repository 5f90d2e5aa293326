"""Whole models: all that is quantized runs on integers, in a quarter of the bytes, with the noise that graphs have."""

import sys
from pathlib import Path

import pytest
import torch
from quantized_models import GEMMS, names

from quantizer_sdk import calibrate, convert_pt2e, prepare_pt2e
from quantizer_sdk.backends.onednn import lower_eager
from quantizer_sdk.backends.x86 import X86Quantizer, get_default_x86_quantization_config

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from models import bert, mobilenet_v2, resnet  # behind its path

ENTRIES = {entry.name: entry for module in (resnet, mobilenet_v2, bert) for entry in module.ENTRIES}
# (gemms in all, those that add a residual)
EXPECTED = {"resnet18": (21, 8), "mobilenet_v2": (53, 10), "bert": (26, 0)}


@pytest.mark.parametrize("name", EXPECTED)
def test_models_run_on_integers(name):
    entry = ENTRIES[name]
    model = entry.build(entry.small)
    # One code that falls the other way changes all that follows: noise is that of many texts, or of many logits.
    examples = entry.examples(entry.small, 24 if name == "bert" else 8)
    exported = torch.export.export(model, examples[0]).module()
    quantizer = X86Quantizer("onednn").set_global(get_default_x86_quantization_config(reduce_range=False))
    prepared = prepare_pt2e(exported, quantizer)
    calibrate(prepared, examples[:4])
    converted = convert_pt2e(prepared)
    program = lower_eager(converted, examples[0])
    found = names(program)
    assert (sum(kernel in GEMMS for kernel in found), found.count("onednn.qconv2d_pointwise")) == EXPECTED[name]
    assert program.size <= 0.27 * sum(tensor.numel() * 4 for tensor in model.state_dict().values())
    held_out = examples[4:]
    with torch.no_grad():
        expected = [exported(*example) for example in held_out]
        graph = sum((converted(*x) - y).square().sum() for x, y in zip(held_out, expected, strict=True))
        kernels = sum((program.run(*x)[0] - y).square().sum() for x, y in zip(held_out, expected, strict=True))
    assert kernels <= 1.1 * graph
    if name != "bert":  # images stay on codes from the first to the last layer
        assert program.delegation().non_delegated == ()
