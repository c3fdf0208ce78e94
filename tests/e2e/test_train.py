"""Training end to end on tiny parts and drawn photographs: both stages, resumed, assembled, asked."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, LlamaForCausalLM

from pixellm import training
from pixellm.mini import build, stages
from pixellm.mini.nanodet import NanoDet
from pixellm.model import PixelLMForConditionalGeneration
from pixellm.segmenter import load
from pixellm.train.trainer import PixelLMTrainer
from tests.support import tiny

STEPS, SAVE = 4, 2


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Eight pictures with a red "apple" on the left or a green "dog" on the right, in COCO format."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(8):
        pixels = np.full((48, 64, 3), 40, dtype=np.uint8)
        x = 4 if i % 2 else 36
        pixels[10:34, x : x + 20] = (200, 30, 30) if i % 2 else (30, 200, 30)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
        polygon = [x, 10, x + 20, 10, x + 20, 34, x, 34]
        annotations.append({"id": i, "image_id": i, "category_id": 1 + i % 2, "segmentation": [polygon], "iscrowd": 0})
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "apple"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(data))
    return root


@pytest.fixture
def recipe(photographs, tmp_path, monkeypatch) -> Path:
    """A recipe whose pretrained parts are tiny and random."""
    torch.manual_seed(0)
    language_model = tmp_path / "language_model"
    config = tiny.text_config(tied=True)
    tokenizer = tiny.tiny_tokenizer()
    config.vocab_size = len(tokenizer) - tiny.CODEBOOK_SIZE
    LlamaForCausalLM(config).save_pretrained(language_model)
    plain_tokenizer(language_model)
    vision = tmp_path / "vision"
    vision.mkdir()
    backbone = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    save_file(backbone.state_dict(), vision / "model.safetensors")
    monkeypatch.setattr(build, "fetch_language_model", lambda: language_model)
    monkeypatch.setattr(stages, "fetch_vision_weights", lambda: vision / "model.safetensors")
    monkeypatch.setattr(stages, "fetch_language_model", lambda: language_model)
    stage = {"steps": STEPS, "batch_size": 2, "save_steps": SAVE, "warmup_steps": 1, "learning_rate": 1e-3}
    fields = {
        "name": "tiny",
        "data_root": str(photographs),
        "sources": [{"annotations": "instances.json", "images": "images", "weight": 1}],
        "model": {
            "vision": {
                "backbone": "tf_efficientnet_lite0",
                "image_size": 64,
                "reductions": [32, 16, 8],
                "hidden_size": 16,
            },
            "num_scales": 3,
            "tokens_per_scale": 1,
            "num_candidates": 12,
            "semantics_weight": 0.5,
            "pixel_feature_size": 16,
            "decoder_dim": 32,
            "decoder_mlp_dim": 32,
            "num_mask_tokens": 1,
        },
        "lora": {"rank": 2, "alpha": 4},
        "vision_stage": {
            **stage,
            "backbone_learning_rate": 1e-4,
            "frozen": ["conv_stem", "blocks.0"],
            "depthwise": False,
        },
        "text_stage": {
            **stage,
            "questions": 2,
            "lora_learning_rate": 0.1,  # what four steps change must show beside rounding
            "pointer_learning_rate": 1e-4,
            "sources": [{"annotations": "instances.json", "images": "images"}],
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def plain_tokenizer(directory: Path) -> None:
    """The tiny tokenizer before the codebook was added to it."""
    tiny.tiny_tokenizer(codebook=False).save_pretrained(directory)


def trained_weights(recipe: Path, output: Path) -> dict[str, torch.Tensor]:
    training.run(recipe, output)
    return load_file(output / "trained" / "model.safetensors")


class InterruptedRunError(Exception):
    pass


def test_resumed_equals_uninterrupted(recipe, tmp_path, monkeypatch) -> None:
    whole = trained_weights(recipe, tmp_path / "whole")
    step = PixelLMTrainer.training_step
    taken = 0

    def stopping(self, *args, **kwargs):
        nonlocal taken
        if taken == SAVE + 1:
            raise InterruptedRunError
        taken += 1
        return step(self, *args, **kwargs)

    for _ in range(2):  # once in either stage
        taken = 0
        monkeypatch.setattr(PixelLMTrainer, "training_step", stopping)
        with pytest.raises(InterruptedRunError):
            training.run(recipe, tmp_path / "resumed")
        taken = -10_000 if (tmp_path / "resumed" / "texts").exists() else -STEPS + 1
    resumed = trained_weights(recipe, tmp_path / "resumed")
    assert whole.keys() == resumed.keys()
    for key, tensor in whole.items():
        assert torch.equal(tensor, resumed[key]), (key, float((tensor.float() - resumed[key].float()).abs().max()))


def test_assembled_model_is_the_trained_one(recipe, tmp_path, monkeypatch) -> None:
    """Adapters merged = adapters beside the weights, and the result answers questions from its directory alone."""
    models: list[PixelLMForConditionalGeneration] = []
    save = stages.save_partial_checkpoint
    monkeypatch.setattr(stages, "save_partial_checkpoint", lambda model, *a: (models.append(model), save(model, *a)))
    out = training.run(recipe, tmp_path / "run")
    merged = AutoModel.from_pretrained(out, dtype=torch.float32).eval()
    unmerged = models[0].float().eval()
    inputs = torch.randn(1, 5, merged.config.text_config.hidden_size)
    with torch.no_grad():
        expected = unmerged.language_model(inputs_embeds=inputs).logits
        assert torch.allclose(merged.language_model(inputs_embeds=inputs).logits, expected, atol=2e-3)
        plain = LlamaForCausalLM.from_pretrained(build.fetch_language_model())(inputs_embeds=inputs).logits
    assert not torch.allclose(plain, expected[..., : plain.shape[-1]], atol=2e-3), "training changed nothing"
    predictor = load(out)
    predictor.set_image(Image.new("RGB", (64, 48), "red"))
    assert predictor.ask("Segment the apple.", max_new_tokens=8).question == "Segment the apple."


def test_losses_are_logged_part_by_part(recipe, tmp_path) -> None:
    training.run(recipe, tmp_path / "run")
    vision = {"loss_bce", "loss_dice", "loss_semantics", "loss_presence"}
    for stage, expected in (("vision", vision), ("texts", {"loss_ce", "loss_pointer"})):
        state = json.loads((tmp_path / "run" / stage / "trainer_state.json").read_text())
        assert expected <= set(state["log_history"][0])


def test_what_is_frozen_in_the_first_stage_stays(recipe, tmp_path) -> None:
    training.run(recipe, tmp_path / "run")
    pretrained = load_file(stages.fetch_vision_weights())
    trained = load_file(tmp_path / "run" / "vision" / "pixel_side.safetensors")
    start = "vision_encoder.backbone."
    weights = {key.removeprefix(start): tensor for key, tensor in trained.items() if key.startswith(start)}
    kept = {key for key, tensor in weights.items() if torch.equal(tensor, pretrained[key])}
    assert {"conv_stem.weight", "blocks.0.0.conv_pw.weight", "blocks.3.0.conv_dw.weight"} <= kept
    assert not {"blocks.3.0.conv_pw.weight", "blocks.5.0.conv_pwl.weight", "conv_head.weight"} & kept


def test_masks_of_detections_are_trained_and_shipped(recipe, tmp_path, monkeypatch) -> None:
    """A recipe that goes on from another's result adds a detector; what it trains is in the model, the rest stays."""
    training.run(recipe, tmp_path / "first")
    network = NanoDet(2)
    monkeypatch.setattr(build, "COCO", ("apple", "dog"))
    monkeypatch.setattr(build, "read_detector", lambda _: network.state_dict())
    fields = yaml.safe_load(recipe.read_text()) | {
        "initialise": str(tmp_path / "first" / "trained"),
        "detector": "detector",
        "mask_stage": {"steps": STEPS, "batch_size": 2, "learning_rate": 1e-2, "save_steps": SAVE},
        "held_out": [{"annotations": "instances.json", "images": "images"}],
    }
    fields["mask_stage"]["sources"] = [source | {"unseen": True} for source in fields["sources"]]
    del fields["vision_stage"], fields["text_stage"]
    recipe.write_text(yaml.safe_dump(fields))
    out = training.run(recipe, tmp_path / "second")
    first, second = (load_file(tmp_path / run / "trained" / "model.safetensors") for run in ("first", "second"))
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    new = {key: tensor for key, tensor in second.items() if key not in first}
    assert all(key.startswith(stages.DETECTOR_PARTS) for key in new)
    state = network.half().state_dict()
    assert all(torch.equal(new[f"vision_encoder.detector.network.{key}"].half(), state[key]) for key in state)
    assert new["vision_encoder.detector.presence_gains"].tolist() != [1.0, 0.0]
    losses = json.loads((tmp_path / "second" / "masks" / "trainer_state.json").read_text())["log_history"][0]
    assert {"loss_bce", "loss_dice"} <= set(losses)
    predictor = load(out)
    assert predictor.model.instances is not None
    assert predictor(Image.new("RGB", (64, 48), "red"), "Segment the apple.", max_new_tokens=8).original_hw == (48, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_stage": {"steps": 1, "batch_size": 1, "learning_rate": 1, "sources": []}}, "mask_stage: sources"),
        ({"sources": []}, "sources: expected .*at least 1 item"),
        ({"lora": {"rank": "high"}}, "lora: rank: expected a valid integer, .*got 'high'"),
        ({"nonsense": 1}, "unknown fields nonsense. Known: augmentation, "),
        ({"lora": {"rnak": 2, "alpha": 4}}, r"lora: unknown fields rnak \(did you mean rank\?\)"),
        ({"model": {"num_scale": 3}}, r"model: unknown fields num_scale \(did you mean num_scales\?\)"),
        ({"model": {"vision": {"image_sise": 64}}}, r"vision: unknown fields image_sise \(did you mean image_size\?\)"),
        (
            {"sources": [{"annotations": "absent.json", "images": "images", "weight": 1}]},
            "expected a JSON file at .*absent",
        ),
    ],
)
def test_bad_recipes_are_refused(recipe, tmp_path, change, message) -> None:
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        training.run(recipe, tmp_path / "run")


def test_a_further_round_starts_from_what_was_trained(recipe, photographs, tmp_path) -> None:
    """With learning rates of 0 it ends where the round before did; only the scale of scores is calibrated anew."""
    before = trained_weights(recipe, tmp_path / "first")
    fields = yaml.safe_load(recipe.read_text())
    for stage in ("vision_stage", "text_stage"):
        fields[stage] |= {key: 0.0 for key in fields[stage] if key.endswith("learning_rate")}
    held_out = [{"annotations": "instances.json", "images": "images"}]
    recipe.write_text(yaml.safe_dump(fields | {"initialise": "first/trained", "held_out": held_out, "recall": 0.5}))
    after = trained_weights(recipe, tmp_path / "second")
    assert before.keys() == after.keys()
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert changed == {"selection.gain", "selection.bias"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda trained: (trained / "model.safetensors").unlink(), "expected what a training left in"),
        (
            lambda trained: save_file({"neck.0.weight": torch.zeros(1)}, trained / "model.safetensors"),
            "others or missing",
        ),
    ],
)
def test_a_start_of_another_kind_is_refused(recipe, tmp_path, spoil, message) -> None:
    training.run(recipe, tmp_path / "first")
    spoil(tmp_path / "first/trained")
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"initialise": "first/trained"}))
    with pytest.raises(ValueError, match=message):
        training.run(recipe, tmp_path / "second")
