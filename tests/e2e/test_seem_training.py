"""The SEEM-style baseline from a recipe's parts to answers on the command line."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextModel, LlamaForCausalLM

from pixellm import cli
from pixellm.baselines.seem import SeemPredictor
from pixellm.hub.presets import PRESETS
from pixellm.segmenter import load_segmenter
from pixellm.train import run as training
from pixellm.train.recipe import ModelSource, Recipe, TrainingData, TrainingStage
from pixellm.training import KNOWN_MODELS
from tests.support import tiny, trees

TRAINED = ("pixel_decoder", "decoder", "text_projection", "logit_scale")
STEPS = 4


@pytest.fixture
def parts(timm_model, timm_processor, tmp_path, monkeypatch) -> ModelSource:
    """A tiny language model with two layers, of which the first is taken, and the encoder of a tiny PixelLM."""
    torch.manual_seed(0)
    tokenizer = tiny.tiny_tokenizer(codebook=False)
    text = tiny.text_config()
    text.vocab_size = len(tokenizer)
    LlamaForCausalLM(text).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    for part in (timm_model, timm_processor):
        part.save_pretrained(tmp_path / "seeing")
    monkeypatch.setitem(PRESETS, "tiny", tiny.seem_config)
    settings = {"text_config": {"num_hidden_layers": 1}}
    return ModelSource(None, "tiny", str(tmp_path / "llm"), str(tmp_path / "seeing"), settings=settings)


@pytest.fixture
def recipe(parts, tmp_path) -> Recipe:
    """Four pictures with answers of one and two masks, two of them held out."""
    path = trees.dogs_and_cats(tmp_path / "data")
    data = TrainingData({str(path): 1.0}, path.parent)
    stage = TrainingStage(
        steps=STEPS,
        batch_size=2,
        learning_rate=1e-3,
        warmup_steps=1,
        trained=TRAINED,
        save_steps=2,
        logging_steps=1,
        workers=0,
        ema=0.5,
    )
    return Recipe("tiny-seem", parts, data, stage, validation=replace(data, epoch_length=2))


def test_trained_and_asked(recipe, tmp_path) -> None:
    """What is frozen stays as it was, held-out questions are answered while it trains."""
    result = training.train(recipe, tmp_path / "run", KNOWN_MODELS)
    told = json.loads((tmp_path / "run/run.json").read_text())
    assert 0 <= told["metrics"]["giou"] <= 1
    history = json.loads((tmp_path / "run/checkpoints/trainer_state.json").read_text())["log_history"]
    assert {"loss", "loss_choice", "loss_bce", "loss_dice"} <= history[0].keys()
    before = KNOWN_MODELS.open(recipe.initialise).load(recipe.seed)[0].state_dict()
    after = load_file(result / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == set(TRAINED)
    assert isinstance(load_segmenter(result), SeemPredictor)


def test_asked_on_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    """The question is the phrase; settings of a text that nobody writes are refused."""
    tiny.build_seem(tiny.seem_config()).save_pretrained(tmp_path / "model")
    tiny.seem_processor().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)

    def ask(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["pixellm", "ask", "example:cat", "Segment the cat.", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == (2 if "--temperature" in arguments else 0)

    ask("--model", "model", "--out", "cat.png", "--json", "cat.json")
    assert capsys.readouterr().out.startswith("Segment the cat.\n")
    assert (tmp_path / "cat.png").is_file()
    (target,) = json.loads((tmp_path / "cat.json").read_text())["targets"]
    assert (target["phrase"], target["span"]) == ("Segment the cat.", [0, 16])
    ask("--model", "model", "--temperature", "1")
    assert "Error: expected no temperature for model, which segments phrases" in capsys.readouterr().err


def test_resumed_as_if_uninterrupted(recipe, tmp_path, monkeypatch) -> None:
    def losses(output: Path) -> list[float]:
        history = json.loads((output / "checkpoints/trainer_state.json").read_text())["log_history"]
        return [entry["loss"] for entry in history if "loss" in entry]

    training.train(recipe, tmp_path / "whole", KNOWN_MODELS)
    step = training.PixelLMTrainer.training_step

    def stop_at_third(self, *arguments):
        if self.state.global_step == 3:
            raise InterruptedError
        return step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training.PixelLMTrainer, "training_step", stop_at_third)
        with pytest.raises(InterruptedError):
            training.train(recipe, tmp_path / "halved", KNOWN_MODELS)
    training.train(recipe, tmp_path / "halved", KNOWN_MODELS)
    assert losses(tmp_path / "halved") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_trained_further(recipe, tmp_path) -> None:
    """From a whole model."""
    result = training.train(recipe, tmp_path / "run", KNOWN_MODELS)
    again = replace(recipe, initialise=ModelSource(str(result)), validation=None)
    assert isinstance(load_segmenter(training.train(again, tmp_path / "more", KNOWN_MODELS)), SeemPredictor)


def test_from_clips_text_side(parts, tmp_path, monkeypatch) -> None:
    """Its weights are taken as they are."""
    text = tiny.seem_config().text_config
    config = tiny.clip_text_config()
    CLIPTextModel(config).save_pretrained(tmp_path / "clip")
    tiny.tiny_tokenizer(codebook=False).save_pretrained(tmp_path / "clip")
    monkeypatch.setitem(PRESETS, "tiny", lambda: tiny.seem_config(config))
    model, processor = KNOWN_MODELS.open(replace(parts, language_model=str(tmp_path / "clip"), settings={})).load(0)
    assert type(model.text_encoder) is CLIPTextModel
    assert model.config.text_config.hidden_size == text.hidden_size
    theirs = CLIPTextModel.from_pretrained(tmp_path / "clip").state_dict()
    assert all(torch.equal(theirs[key], tensor) for key, tensor in model.text_encoder.state_dict().items())
    assert processor.max_tokens == 20
