"""The attention of encoder and language model against torch's own, and against a mask."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pixellm.model.attention import attend

WIDTH, SCALE = 16, 16**-0.5
NOISE = {torch.float32: 1e-6, torch.bfloat16: 0.02}
dtypes = pytest.mark.parametrize("dtype", NOISE, ids=["float32", "bfloat16"])


def tensors(*shapes, dtype):
    torch.manual_seed(0)
    return [torch.randn(*shape, dtype=dtype) for shape in shapes]


def layer(groups=1):
    module = nn.Module()
    module.is_causal, module.num_key_value_groups = False, groups
    return module


def hidden(valid, dtype):
    return torch.zeros(valid.shape, dtype=dtype).masked_fill(~valid, torch.finfo(dtype).min)


@torch.inference_mode()
@dtypes
def test_keys_that_are_left_out_are_keys_that_are_masked(dtype):
    query, key, value = tensors(*[(3, 4, 9, WIDTH)] * 3, dtype=dtype)
    valid = torch.ones(3, 9, dtype=torch.bool)
    valid[0, 5:], valid[2, 1:4] = False, False
    seen = [row.nonzero()[:, 0] if not row.all() else None for row in valid]
    assert [at is None for at in seen] == [False, True, False]
    found, _ = attend(layer(), query, key, value, None, SCALE, seen=seen)
    bias = hidden(valid, dtype)[:, None, None].expand(-1, 1, 9, -1)
    expected = F.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=NOISE[dtype], rtol=0)


@torch.inference_mode()
@dtypes
@pytest.mark.parametrize("groups", [6, 2, 1])
def test_one_token(dtype, groups):
    query, *pair = tensors((2, 6, 1, WIDTH), *[(2, groups, 9, WIDTH)] * 2, dtype=dtype)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, :4] = False
    bias = hidden(valid, dtype)[:, None, None]
    for given in (bias, None):
        found, _ = attend(layer(6 // groups), query, *pair, given, SCALE)
        expected = F.scaled_dot_product_attention(query, *pair, given, enable_gqa=True).transpose(1, 2)
        torch.testing.assert_close(found, expected, atol=NOISE[dtype], rtol=0)


@torch.inference_mode()
@dtypes
def test_a_mask_of_truths_hides_what_is_false(dtype):
    query, key, value = tensors((2, 6, 1, WIDTH), *[(2, 6, 9, WIDTH)] * 2, dtype=dtype)
    seen = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    seen[1, ..., :4] = False
    found, _ = attend(layer(), query, key, value, seen, SCALE)
    expected = F.scaled_dot_product_attention(query, key, value, seen).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=NOISE[dtype], rtol=0)


@dtypes
def test_gradients_are_those_of_torch(dtype):
    query, key, value = (tensor.requires_grad_() for tensor in tensors(*[(1, 2, 5, WIDTH)] * 3, dtype=dtype))
    found, _ = attend(layer(), query, key, value, None, SCALE, seen=[torch.tensor([0, 2, 3])])
    gradients = torch.autograd.grad(found.float().square().sum(), (query, key, value))
    assert not gradients[1][:, :, [1, 4]].any()
    expected = F.scaled_dot_product_attention(query, key[:, :, [0, 2, 3]], value[:, :, [0, 2, 3]]).transpose(1, 2)
    wanted = torch.autograd.grad(expected.float().square().sum(), (query, key, value))
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other)
