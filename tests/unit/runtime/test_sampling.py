"""Sampling in NumPy against transformers' processors."""

import numpy as np
import pytest
import torch

from pixellm.inference.sampling import build_processors
from pixellm.runtime.sampling import _nucleus, next_token
from pixellm.sampling import Sampling

IDS = [3, 5, 7, 3, 5, 9, 3, 5]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 3},
        {"repetition_penalty": 0.5, "no_repeat_ngram_size": 2},
    ],
)
def test_greedy(settings):
    sampling = Sampling(**settings)
    for seed in range(20):
        scores = np.random.default_rng(seed).standard_normal(12, np.float32)
        scores[[7, 9]] += 3  # what n-grams forbid
        expected = int(build_processors(sampling)(torch.tensor([IDS]), torch.from_numpy(scores.copy())[None]).argmax())
        assert next_token(scores, IDS, sampling, np.random.default_rng(0)) == expected


@pytest.mark.parametrize(("top_k", "top_p"), [(3, None), (None, 0.6), (5, 0.4), (None, 0.01), (50, 1.0)])
def test_nucleus(top_k, top_p):
    sampling = Sampling(temperature=1.0, top_k=top_k, top_p=top_p)
    for seed in range(20):
        scores = np.random.default_rng(seed).standard_normal(12, np.float32) * 2
        expected = build_processors(sampling)(torch.tensor([IDS]), torch.from_numpy(scores.copy())[None])[0]
        np.testing.assert_array_equal(np.isinf(_nucleus(scores, top_k, top_p)), expected.isinf().numpy())


def test_frequencies():
    scores = np.log(np.array([0.5, 0.25, 0.25], np.float32))
    generator = np.random.default_rng(0)
    drawn = [next_token(scores.copy(), IDS[:1], Sampling(temperature=1.0), generator) for _ in range(2000)]
    np.testing.assert_allclose(np.bincount(drawn) / 2000, [0.5, 0.25, 0.25], atol=0.05)
