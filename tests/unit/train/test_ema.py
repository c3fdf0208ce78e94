"""Exponential moving average of weights."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pixellm.train.ema import WeightEma


def started(model: nn.Module, decay: float, checkpoint: Path | None = None) -> WeightEma:
    average = WeightEma(decay)
    average.checkpoint = checkpoint
    average.on_train_begin(None, None, None, model=model)
    return average


def run(decay: float, values: list[float], split: int | None = None, directory=None) -> float:
    """The weight that training ends with when it takes these values, saved and loaded in between if `split`."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = started(model, decay)
    for step, value in enumerate(values, start=1):
        nn.init.constant_(model.weight, value)
        average.on_step_end(None, SimpleNamespace(global_step=step), None)
        if step == split:
            average.save(directory, write=True)
            average = started(model, decay, directory)
            assert float(model.weight) == value
    average.on_train_end(None, None, None)
    return float(model.weight)


def test_the_mean_by_hand() -> None:
    """Decays of 1/10 and 2/11 in the first steps, 0.5 at most."""
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, 4.0], start=1):
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * value
    assert run(0.5, [1.0, 2.0, 4.0]) == pytest.approx(expected)


def test_no_mean_keeps_the_last_weights(tmp_path) -> None:
    assert run(0.0, [1.0, 2.0]) == 2.0
    assert run(0.0, [1.0, 2.0], split=1, directory=tmp_path) == 2.0
    assert not list(tmp_path.iterdir())


def test_it_goes_on_from_a_checkpoint(tmp_path) -> None:
    values = [1.0, -2.0, 5.0, 0.5]
    assert run(0.9, values, split=2, directory=tmp_path) == pytest.approx(run(0.9, values))


def test_frozen_weights_are_left_alone() -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    assert started(model, 0.5).mean.keys() == {"weight"}


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_impossible_decays(decay) -> None:
    with pytest.raises(ValueError, match="ema: expected a decay"):
        WeightEma(decay)


def test_the_mean_is_not_the_weight_itself() -> None:
    model = nn.Linear(1, 1)
    average = started(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    assert not torch.equal(average.mean["weight"], model.weight)


def test_the_model_holds_the_mean_for_a_while() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = started(model, 0.5)
    nn.init.constant_(model.weight, 1.0)
    average.on_step_end(None, SimpleNamespace(global_step=1), None)
    with average.applied():
        assert float(model.weight) == pytest.approx(0.9)
    assert float(model.weight) == 1.0
