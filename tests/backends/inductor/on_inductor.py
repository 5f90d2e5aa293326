"""Constants, and ways to hold a compiled program to its graph."""

import torch
from qdq_graphs import codes, dq, dq_channels, q, s8_weight
from random_codes import rand

from quantizer_sdk.backends.inductor import lower_inductor
from quantizer_sdk.backends.inductor.profile import PROFILE
from quantizer_sdk.conformance import judge, run_oracle

S8 = {"low": -128, "high": 127, "dtype": torch.int8}
U8 = {"low": 0, "high": 255, "dtype": torch.uint8}


def scales(channels, seed=5):
    return torch.rand(channels, generator=torch.Generator().manual_seed(seed)) / 50 + 0.001


def zeros(channels):
    return torch.zeros(channels, dtype=torch.int64)


CONV = {"w": s8_weight(16, 4, 3, 3), "s": scales(16), "z": zeros(16), "b": torch.linspace(-1, 1, 16)}
LINEAR = {"w": s8_weight(32, 32), "s": scales(32), "z": zeros(32), "b": torch.linspace(-1, 1, 32)}
IMAGE, ROWS = rand(2, 4, 8, 8), rand(3, 32)


def weight(m):
    return dq_channels(m.w, m.s, m.z)


def act(x, scale=0.05, zero_point=100):
    """Codes of a tensor, as numbers."""
    return dq(q(x, scale, zero_point), scale, zero_point)


def names(program):
    return [kernel.name for kernel in program.kernels()]


def assert_conforms(model, *inputs, **options):
    """Run a model that is quantized at its ends on random codes, twice; return the program.

    Every code must be the exact one, or lie across a tie that is as near as the profile allows.
    """
    program = lower_inductor(model, inputs, integer_io=True, **options)
    given = [_codes_for(node, place) for place, node in enumerate(model.graph.find_nodes(op="placeholder"))]
    kept = [tensor.clone() for tensor in given]
    results, again = program.run(*given), program.run(*given)
    assert all(map(torch.equal, given, kept))
    assert all(map(torch.equal, results, again))
    sites = run_oracle(model, given, PROFILE).outputs
    assert len(sites) == len(results)
    for site, found in zip(sites, results, strict=True):
        verdict = judge(found, site.requantized, site.kernel_delta)
        assert verdict.conforms, str(verdict)
        assert not verdict.constant
    return program


def _codes_for(placeholder, place):
    quantize = next(user for user in placeholder.users if "quantize_per_tensor" in str(user.target))
    *_, low, high, dtype = quantize.args
    return codes(*placeholder.meta["val"].shape, low=low, high=high + 1, dtype=dtype, seed=9 + place)
