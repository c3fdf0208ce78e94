"""Features of a frozen vision encoder from disk: losses and gradients as without, and what makes a file stale."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixellm.backbones.create import NewParts, extend
from pixellm.backbones.kind import BackboneKind
from pixellm.mini.kind import MiniKind
from pixellm.train.features import encoder_digest, keep_features
from pixellm.train.model_kind import adapt
from pixellm.train.pixellm_kind import PixelLMKind
from pixellm.train.recipe import AdapterConfig, FeatureSettings, ModelSource, Recipe, TrainingData, TrainingStage
from pixellm.train.run import train
from pixellm.training import KNOWN_MODELS
from pixellm.types import Conversation, Sample
from tests.support import tiny
from tests.support.shapes import write_scenes
from tests.support.tiny_vlms import position_image, tiny_vlm

LORA = AdapterConfig(rank=4, alpha=8)
# The paper's; M-RoPE with features of several layers; crops, whose tower runs a second time; tiles; pooled tokens.
MODELS = ("paper", "qwen3_vl", "llava", "internvl", "gemma3")


def adapted(name: str):
    """A model with adapters, its processor and its kind; the same weights at each call."""
    if name == "paper":
        kind, model = PixelLMKind(), tiny.build(tiny.clip_config())
        processor = tiny.tiny_processor(image_size=56, num_image_tokens=4)
    else:
        kind = BackboneKind()
        model, processor = extend(*tiny_vlm(name), NewParts(decoder_dim=32, mask_grid=8))
    torch.manual_seed(0)
    adapt(model, kind, LORA, kind.trained_parts(model.config))
    return model, processor, kind


def batch_of(processor, *sizes: tuple[int, int]):
    samples = []
    for height, width in sizes:
        mask = np.zeros((2, height, width), dtype=bool)
        mask[0, 2:10, 2:20] = mask[1, 12:20, 5:9] = True
        turn = Conversation("What is there?", "It is the dog {seg} and the cat {seg}.", mask)
        samples.append(Sample(position_image(height, width), (turn,)))
    return {name: value for name, value in vars(processor(samples)).items() if value is not None}


def step(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of a step, and all gradients."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_without(name, tmp_path):
    """Bit for bit, when features are encoded and when they are read."""
    model, processor, kind = adapted(name)
    batches = [batch_of(processor, (60, 80)), batch_of(processor, (80, 60))]
    expected = [step(model, batch) for batch in batches]
    keep_features(model, kind, FeatureSettings(tmp_path))
    assert [*tmp_path.glob("??/*")] == []
    for _ in ("encoded", "read"):
        for (loss, gradients), batch in zip(expected, batches, strict=True):
            found, others = step(model, batch)
            assert torch.equal(found, loss)
            assert gradients.keys() == others.keys()
            assert all(torch.equal(gradient, others[key]) for key, gradient in gradients.items())
    assert len([*tmp_path.glob("??/*.safetensors")]) == 2


@pytest.mark.parametrize("name", ["paper", "qwen3_vl"])
def test_the_encoder_does_not_run_for_what_is_there(name, tmp_path, monkeypatch):
    model, processor, kind = adapted(name)
    keep_features(model, kind, FeatureSettings(tmp_path))
    batch = batch_of(processor, (60, 80), (60, 60))
    loss, _ = step(model, batch)
    (encoder, *_) = model.vision_modules
    monkeypatch.setattr(type(encoder), "forward", lambda *_, **__: pytest.fail("it is encoded again"))
    found, _ = step(model, batch)
    assert torch.equal(found, loss)


def test_images_of_a_batch_are_kept_apart(tmp_path):
    model, processor, kind = adapted("paper")
    pair, single = batch_of(processor, (60, 80), (60, 60)), batch_of(processor, (60, 60))
    expected, _ = step(model, pair)
    keep_features(model, kind, FeatureSettings(tmp_path))
    step(model, single)
    loss, _ = step(model, pair)
    assert len([*tmp_path.glob("??/*.safetensors")]) == 2  # one of the pair was there
    torch.testing.assert_close(loss, expected)


def test_other_weights_layers_pixels_and_precisions_have_other_files(tmp_path):
    model, processor, kind = adapted("qwen3_vl")
    batch = batch_of(processor, (60, 80))

    def files() -> int:
        keep_features(model, kind, FeatureSettings(tmp_path))
        with torch.no_grad():
            model(**batch)
        return len([*tmp_path.glob("??/*.safetensors")])

    assert files() == 1
    assert files() == 1
    with torch.no_grad():
        next(model.vision_modules[0].parameters()).add_(1e-3)
    assert files() == 2
    model.config.vision_layers = [-1, -2]
    assert files() == 3
    batch["images"][0].pixels["pixel_values"].add_(1e-3)
    assert files() == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert files() == 5


def test_what_does_not_train_decides_not(tmp_path):
    model, _, _ = adapted("qwen3_vl")
    before = encoder_digest(model, model.vision_modules)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    assert encoder_digest(model, model.vision_modules) == before


def test_mistakes(tmp_path, timm_model):
    model, _, kind = adapted("paper")
    next(model.vision_encoder.parameters()).requires_grad_(True)
    with pytest.raises(ValueError, match="expected a frozen vision encoder"):
        keep_features(model, kind, FeatureSettings(tmp_path))
    with pytest.raises(ValueError, match="expected a model of the paper's assembly"):
        keep_features(timm_model, MiniKind(), FeatureSettings(tmp_path))
    with pytest.raises(ValueError, match="expected a size like 24GB"):
        FeatureSettings(tmp_path, "much")


def test_a_run_with_a_cache_gives_the_weights_of_one_without(tmp_path):
    """Two epochs; the second run reads what the first one kept."""
    data, start = write_scenes(tmp_path / "data", 2), tmp_path / "start"
    for part in extend(*tiny_vlm("qwen3_vl"), NewParts(decoder_dim=32, mask_grid=8)):
        part.save_pretrained(start)
    stage = TrainingStage(
        steps=2, batch_size=2, device_batch_size=1, learning_rate=1e-3, warmup_steps=1, workers=0, bf16=False
    )
    mixture = TrainingData({str(data): 1.0}, data.parent)
    recipe = Recipe("kept", ModelSource(str(start)), mixture, stage, LORA)
    kept = replace(recipe, features=FeatureSettings(tmp_path / "cache", "10MB"))
    results = [train(r, tmp_path / n, KNOWN_MODELS) for r, n in ((recipe, "plain"), (kept, "first"), (kept, "second"))]
    weights = [(result / "model.safetensors").read_bytes() for result in results]
    assert weights[0] == weights[1] == weights[2]
    assert len([*(tmp_path / "cache").glob("??/*.safetensors")]) == 2
