"""Losses against hand cases and NumPy written from the formulas (docs: losses.py, spec 2.1)."""

import math

import numpy as np
import pytest
import torch

from pixellm.model import losses


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce_of(logits, target):
    p = sigmoid(logits)
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 5, 7, generator=generator) - 0.7
    return logits, torch.rand(4, 5, 7, generator=generator) > 0.5


# --- refinement weight ---


def test_weight_by_hand():
    logits = torch.tensor([[[1.0, 1.0, -1.0, 0.0]], [[2.0, -2.0, -1.0, 3.0]], [[0.5, -1.0, -1.0, -1.0]]])
    assert losses.refinement_weight(logits, 2.5).tolist() == [[2.5, 1.0, 1.0, 1.0]]


def test_weight_where_two_or_more_claim(case):
    logits, _ = case
    claims = (logits.numpy() > 0).sum(axis=0)
    assert {0, 1, 2, 3} <= set(claims.ravel())
    expected = np.where(claims >= 2, 3.0, 1.0)
    assert (losses.refinement_weight(logits, 3.0).numpy() == expected).all()


def test_weight_of_one_mask_is_one(case):
    logits, _ = case
    assert (losses.refinement_weight(logits[:1], 5.0) == 1).all()
    assert losses.refinement_weight(logits[:0], 5.0).shape == (5, 7)


def test_no_gradient_through_the_weight(case):
    logits, target = case
    logits = logits.clone().requires_grad_()
    weight = losses.refinement_weight(logits, 2.0)
    assert not weight.requires_grad
    losses.mask_bce(logits, target, weight).backward()
    # The gradient of a weighted cross-entropy with a constant weight, in closed form.
    expected = weight * (logits.detach().sigmoid() - target.float()) / (5 * 7)
    torch.testing.assert_close(logits.grad, expected, atol=1e-7, rtol=1e-5)


# --- cross-entropy ---


def test_bce_brute_force(case):
    logits, target = case
    weight = torch.rand(5, 7)
    expected = sum(
        (bce_of(one.numpy(), t.numpy()) * weight.numpy()).mean() for one, t in zip(logits, target, strict=True)
    )
    assert float(losses.mask_bce(logits, target, weight)) == pytest.approx(expected, rel=1e-5)


def test_bce_by_hand():
    logits, target = torch.tensor([[[0.0, 0.0]], [[0.0, 100.0]]]), torch.tensor([[[True, False]], [[True, True]]])
    assert float(losses.mask_bce(logits, target)) == pytest.approx(math.log(2) + math.log(2) / 2)
    assert float(losses.mask_bce(logits[:0], target[:0])) == 0


def test_alpha_two_is_the_released_form(case):
    """Released: BCE, plus the BCE of the pixels that two or more masks claim once more."""
    logits, target = case
    overlap = ((logits > 0).sum(dim=0) >= 2).float()
    released = losses.mask_bce(logits, target) + losses.mask_bce(logits, target, overlap)
    ours = losses.mask_bce(logits, target, losses.refinement_weight(logits, 2.0))
    torch.testing.assert_close(ours, released)
    assert float(ours) > float(losses.mask_bce(logits, target))


def test_alpha_one_switches_refinement_off(case):
    logits, target = case
    weight = losses.refinement_weight(logits, 1.0)
    assert float(losses.mask_bce(logits, target, weight)) == float(losses.mask_bce(logits, target))


# --- DICE ---


def test_dice_brute_force(case):
    logits, target = case
    expected = 0.0
    for one, t in zip(logits.double().numpy(), target.double().numpy(), strict=True):
        p = sigmoid(one)
        expected += 1 - (2 * (p * t).sum() / 1000 + 1e-6) / (p.sum() / 1000 + t.sum() / 1000 + 1e-6)
    assert float(losses.mask_dice(logits, target)) == pytest.approx(expected, rel=1e-5)


def test_dice_by_hand():
    high, low = 200.0, -200.0
    logits = torch.tensor([[[high, high]], [[high, low]], [[low, low]], [[low, low]]])
    target = torch.tensor([[[True, True]], [[False, True]], [[True, True]], [[False, False]]])
    per_mask = [float(losses.mask_dice(logits[i : i + 1], target[i : i + 1])) for i in range(4)]
    assert per_mask == pytest.approx([0, 1 - 1e-6 / (0.002 + 1e-6), 1 - 1e-6 / (0.002 + 1e-6), 0], abs=1e-6)
    assert float(losses.mask_dice(logits, target)) == pytest.approx(sum(per_mask))
    assert float(losses.mask_dice(logits[:0], target[:0])) == 0
