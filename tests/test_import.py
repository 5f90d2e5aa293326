"""Importing the package changes nothing outside of it, and brings in no runtime."""

import subprocess
import sys

CHECK = """
import logging, sys, warnings
import torch
before = (list(warnings.filters), list(logging.getLogger().handlers), torch.get_num_threads(), torch.is_grad_enabled())
import {module}
after = (list(warnings.filters), list(logging.getLogger().handlers), torch.get_num_threads(), torch.is_grad_enabled())
assert before == after, (before, after)
unwanted = {{"torchao", "executorch", "onnxruntime", "matplotlib", "typer", "torch._dynamo", "torch._inductor"}}
assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
"""


def check(module):
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(module=module)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_package():
    check("quantizer_sdk, quantizer_sdk.observers, quantizer_sdk.fake_quantize")


def test_a_backend():
    check("quantizer_sdk.backends.xnnpack")


def test_the_suite():
    check("quantizer_sdk.conformance")
