"""Programs run on random codes and held to the graph that they were lowered from."""

import torch

from quantizer_sdk.backend import strip_boundary

CODES = (torch.int8, torch.uint8)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run_on_random_codes(lower, model, *inputs, step=1):
    """Lower a converted model, run it on random codes where it takes codes, hold it to the graph; return the program.

    Codes are `step` apart at most, in no more than one of a hundred places; floats are equal to a few roundoffs.
    """
    program = lower(model, inputs, integer_io=True)
    stripped, examples = strip_boundary(model, inputs)
    generator = torch.Generator().manual_seed(7)
    codes = [_codes_like(example, generator) if example.dtype in CODES else example for example in examples]
    found, expected = program.run(*codes), stripped(*codes)
    expected = (expected,) if isinstance(expected, torch.Tensor) else tuple(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert len(other.unique()) > 1  # results that are all the same prove nothing
        if one.dtype in CODES:
            apart = (one.int() - other.int()).abs()
            assert apart.max() <= step
            assert (apart > 0).sum() <= max(1, apart.numel() // 100)
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return program


def _codes_like(example, generator):
    limits = torch.iinfo(example.dtype)
    return torch.randint(limits.min, limits.max + 1, example.shape, dtype=example.dtype, generator=generator)
