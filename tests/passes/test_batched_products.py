"""Products of stacked matrices lose their broadcasts: matmul to the bit, attention up to float rounding."""

import pytest
import torch
from quantizers import Apply, targets
from torch.export import Dim
from torch.nn import functional

from quantizer_sdk.model_copy import copy_model
from quantizer_sdk.passes.batched_products import batch_products
from quantizer_sdk.verify import Stage, verify

attention = functional.scaled_dot_product_attention


def rewritten(model):
    result = copy_model(model)
    batch_products(result)
    result.recompile()
    verify(result, Stage.EXPORTED, after="batch_products")
    return result


@pytest.mark.parametrize("leading", [(3,), (2, 3), (2, 1, 3)])
def test_matmul_is_the_same_to_the_bit(export, leading):
    x, y = torch.randn(*leading, 4, 5), torch.randn(*leading, 5, 6)
    model = export(Apply(lambda self, x, y: x @ y), x, y)
    result = rewritten(model)
    assert "matmul" not in targets(result)
    assert targets(result).count("bmm") == 1
    assert torch.equal(result(x, y), model(x, y))


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("leading", [(3,), (2, 3)])
def test_attention_differs_by_rounding_only(export, leading, scale):
    query, key, value = (torch.randn(*leading, *shape) for shape in ((7, 8), (5, 8), (5, 6)))
    model = export(Apply(lambda self, q, k, v: attention(q, k, v, scale=scale)), query, key, value)
    result = rewritten(model)
    assert not any("attention" in target for target in targets(result))
    assert result(query, key, value).shape == (*leading, 7, 6)
    torch.testing.assert_close(result(query, key, value), model(query, key, value), rtol=1e-5, atol=1e-6)


def test_one_leading_axis_may_be_dynamic(export):
    x = torch.randn(4, 2, 6, 8)
    module = Apply(lambda self, x: attention(x, x, x) @ x.transpose(2, 3))
    model = export(module, x, dynamic_shapes=({0: Dim("batch", max=16)},))
    result = rewritten(model)
    assert targets(result).count("bmm") == 3
    for batch in (1, 3, 9):
        x = torch.randn(batch, 2, 6, 8)
        torch.testing.assert_close(result(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "function"),
    [
        (((2, 3, 4), (4, 5)), torch.matmul),
        (((2, 3, 4), (1, 4, 5)), torch.matmul),
        (((4, 5), (5, 6)), torch.matmul),
        (((2, 4, 8), (2, 4, 8), (2, 4, 8)), lambda q, k, v: attention(q, k, v, is_causal=True)),
        (((2, 4, 8), (2, 4, 8), (2, 4, 8), (4, 4)), attention),
        (((2, 4, 4, 8), (2, 2, 4, 8), (2, 2, 4, 8)), lambda q, k, v: attention(q, k, v, enable_gqa=True)),
        (((2, 4, 8), (1, 4, 8), (1, 4, 8)), attention),
    ],
)
def test_what_is_broadcast_or_masked_stays(export, shapes, function):
    inputs = [torch.randn(shape) for shape in shapes]
    model = export(Apply(lambda self, *inputs: function(*inputs)), *inputs)
    assert targets(rewritten(model)) == targets(model)
