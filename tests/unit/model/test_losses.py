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


# --- dense classifier ---


def test_semantic_brute_force():
    rng = np.random.default_rng(2)
    logits, target = rng.normal(size=(2, 3, 4, 5)), rng.random((2, 3, 4, 5)) * (rng.random((2, 3, 1, 1)) > 0.5)
    weight = rng.random((2, 3, 4, 5)) > 0.3
    target = target * weight
    bce = (bce_of(logits, target) * weight).mean(axis=(2, 3)).sum(axis=1).mean()
    dices = []
    for b in range(2):
        for v in range(3):
            if target[b, v].sum() > 0.5:
                p = sigmoid(logits[b, v]) * weight[b, v]
                dices.append(1 - (2 * (p * target[b, v]).sum() + 1) / (p.sum() + target[b, v].sum() + 1))
    assert 0 < len(dices) < 6
    expected = bce + sum(dices) / len(dices)
    got = losses.semantic_loss(*(torch.from_numpy(x) for x in (logits, target, weight)))
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_semantic_loss_ignores_what_is_unknown():
    torch.manual_seed(0)
    target = (torch.rand(2, 3, 4, 4) > 0.5).float()
    weight = torch.rand(2, 3, 4, 4) > 0.3
    target = target * weight
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = losses.semantic_loss(logits, target, weight)
    loss.backward()
    assert (logits.grad[~weight] == 0).all()
    assert (logits.grad[weight] != 0).all()
    changed = torch.where(weight, logits.detach(), torch.randn(2, 3, 4, 4) * 9)
    torch.testing.assert_close(losses.semantic_loss(changed, target, weight), loss.detach())


def test_semantic_loss_without_anything_present():
    logits, nothing = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    known = torch.ones(1, 2, 3, 3, dtype=torch.bool)
    assert float(losses.semantic_loss(logits, nothing, known)) == pytest.approx(2 * math.log(2))
    assert float(losses.semantic_loss(logits, nothing, ~known)) == 0


def test_presence_loss_by_hand():
    """Known to be there where any cell shows it, known to be absent where every cell of the image is known."""
    logits = torch.tensor([[0.5, -1.0, 2.0, 3.0]])
    target, weight = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    valid = torch.tensor([[[True, True], [False, False]]])
    target[0, 0, 0, 0], weight[0, 0] = 0.1, True  # there
    weight[0, 1, 0] = True  # absent: nothing is known of the padding
    weight[0, 2, 0, 0] = True  # half known
    expected = math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-1.0))
    assert float(losses.presence_loss(logits, target, weight, valid)) == pytest.approx(expected)
    two = [torch.cat([x, x]) for x in (logits, target, weight, valid)]
    assert float(losses.presence_loss(*two)) == pytest.approx(expected)
