import numpy as np
import pytest
import torch

from pixellm.model.codebook import Codebook, find_groups
from tests.support import tiny

GROUP = [90, 91, 92, 93]


def ids(*rows):
    return torch.tensor(rows)


def test_groups_in_reading_order():
    found = find_groups(ids([1, *GROUP, 2, *GROUP, 3], [*GROUP, *GROUP, 4, 5, 6], [0] * 11), GROUP)
    assert found.tolist() == [[0, 1], [0, 6], [1, 0], [1, 4]]


def test_no_groups():
    assert find_groups(ids([1, 2, -200]), GROUP).shape == (0, 2)
    assert find_groups(ids([1, 2, 3]), [90]).shape == (0, 2)


def test_groups_of_one_token():
    assert find_groups(ids([90, 1, 90, 90]), [90]).tolist() == [[0, 0], [0, 2], [0, 3]]


def test_ids_need_not_be_consecutive():
    assert find_groups(ids([1, 7, 3, 9, 1]), [7, 3, 9]).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 90, 91, 92], "3 tokens in 1 groups"),
        ([91, 92, 93, 1], "3 tokens in 0 groups"),
        ([90, 91, 92, 93, 90, 91], "6 tokens in 2 groups"),
        ([1, 2, 91, 92, 93, 90], "cut off"),
        ([90, 92, 91, 93, 1], "in the order"),
        ([90, 91, 1, 92, 93], "in the order"),
        ([90, 90, 91, 91, 92, 92, 93, 93], "in the order"),
    ],
)
def test_incomplete_or_disordered_groups(row, message):
    with pytest.raises(ValueError, match=message):
        find_groups(ids(row), GROUP)


def test_a_good_row_does_not_excuse_a_bad_one():
    with pytest.raises(ValueError, match="in the order"):
        find_groups(ids([1, *GROUP, 2], [90, 93, 92, 91, 1, 1]), GROUP)


@pytest.mark.parametrize("config", [tiny.clip_config(), tiny.timm_config()], ids=["clip", "timm"])
def test_fuse_brute_force(config):
    torch.manual_seed(0)
    codebook = Codebook(config)
    torch.nn.init.normal_(codebook.token_weights)
    scales, tokens, targets = config.num_scales, config.tokens_per_scale, 3
    states = torch.randn(targets * scales * tokens, 32)
    with torch.no_grad():
        fused = codebook(states).numpy()
    first, last = codebook.project[0], codebook.project[2]
    w1, b1, w2, b2, mix = (
        x.detach().numpy() for x in (first.weight, first.bias, last.weight, last.bias, codebook.token_weights)
    )
    assert fused.shape == (targets, scales, config.decoder_dim)
    for target in range(targets):
        for scale in range(scales):
            expected = np.zeros(config.decoder_dim)
            for token in range(tokens):
                state = states[(target * scales + scale) * tokens + token].numpy()
                expected += mix[scale, token] * (w2 @ np.maximum(w1 @ state + b1, 0) + b2)
            np.testing.assert_allclose(fused[target, scale], expected, atol=1e-5)


def test_weights_start_as_a_mean_or_as_released():
    """Paper: mean over a scale's tokens. Released: 1 / (L·N), half of that with two scales, and a constant."""
    paper, released = Codebook(tiny.clip_config()), Codebook(tiny.clip_config(compat="released"))
    assert torch.equal(paper.token_weights, torch.full((2, 3), 1 / 3))
    assert paper.token_weights.requires_grad
    assert torch.equal(released.token_weights, torch.full((2, 3), 1 / 6))
    assert not released.token_weights.requires_grad


def test_no_targets():
    assert Codebook(tiny.clip_config())(torch.zeros(0, 32)).shape == (0, 2, 32)
