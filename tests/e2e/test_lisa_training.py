"""LISA from its pretrained parts to answers: trained by the same trainer, asked by the same commands, LISA_rec too."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionModel, LlamaForCausalLM, SamConfig, SamModel, SamVisionConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig

from pixellm import cli
from pixellm.baselines.lisa import LisaConfig, LisaForConditionalGeneration
from pixellm.baselines.two_stage import TwoStage
from pixellm.hub.presets import PRESETS
from pixellm.model import PixelLMVisionConfig
from pixellm.predictor import Predictor
from pixellm.segmenter import load_segmenter
from pixellm.train import run as training
from pixellm.train.recipe import AdapterConfig, ModelSource, Recipe, TrainingData, TrainingStage
from pixellm.training import KNOWN_MODELS
from tests.support import tiny, trees

CLIP_SIDE, SAM_SIDE, WIDTH = 56, 64, 32
SAM_VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "global_attn_indexes": [1],
    "mlp_dim": 24,
    "image_size": SAM_SIDE,
    "window_size": 3,
    "output_channels": WIDTH,
}


def lisa() -> LisaConfig:
    """What a preset says that is not in the parts."""
    vision = PixelLMVisionConfig(kind="clip", image_size=CLIP_SIDE, clip=tiny.CLIP_SIZES, hidden_layers=(-2,))
    decoder = {"hidden_size": WIDTH, "num_attention_heads": 4, "mlp_dim": 48}
    return LisaConfig(SamVisionConfig(**SAM_VISION), decoder, vision, tiny.text_config(), llm_grid=4)


@pytest.fixture
def parts(tmp_path, monkeypatch) -> ModelSource:
    """A tiny language model, CLIP and SAM, as others publish them."""
    torch.manual_seed(0)
    tokenizer = tiny.tiny_tokenizer(codebook=False)
    text = tiny.text_config()
    text.vocab_size = len(tokenizer)
    LlamaForCausalLM(text).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    CLIPVisionModel(lisa().vision_config.clip_config).save_pretrained(tmp_path / "clip")
    decoder = SamMaskDecoderConfig(hidden_size=WIDTH, num_attention_heads=4, mlp_dim=48, iou_head_hidden_dim=24)
    prompts = SamPromptEncoderConfig(hidden_size=WIDTH, image_size=SAM_SIDE, image_embedding_size=4)
    config = SamConfig(
        vision_config=SamVisionConfig(**SAM_VISION, num_pos_feats=WIDTH // 2),
        prompt_encoder_config=prompts,
        mask_decoder_config=decoder,
    )
    sam = SamModel(config)
    tiny.randomise(sam, 1)
    sam.save_pretrained(tmp_path / "sam")
    monkeypatch.setitem(PRESETS, "tiny", lisa)
    return ModelSource(None, "tiny", *(str(tmp_path / name) for name in ("llm", "clip", "sam")))


@pytest.fixture
def recipe(parts, tmp_path) -> Recipe:
    path = trees.dogs_and_cats(tmp_path / "data")
    stage = TrainingStage(4, 2, 1e-2, warmup_steps=1, save_steps=2, logging_steps=1, workers=0, bf16=False)
    stage = replace(stage, trained=("codebook", "pixel_decoder"))
    return Recipe("tiny", parts, TrainingData({str(path): 1.0}, path.parent), stage, AdapterConfig(rank=2, alpha=4))


def test_from_pretrained_parts_to_answers(recipe, tmp_path) -> None:
    """SAM's encoder, CLIP and the projector stay as they were; mask decoder and [SEG] are trained."""
    begun, _ = KNOWN_MODELS.open(recipe.initialise).load(recipe.seed)
    sam = load_file(Path(recipe.initialise.sam_model) / "model.safetensors")
    state = begun.state_dict()
    assert torch.equal(state["sam_encoder.pos_embed"], sam["vision_encoder.pos_embed"])
    key = "transformer.layers.0.self_attn.q_proj.weight"
    assert torch.equal(state[f"pixel_decoder.mask_decoder.{key}"], sam[f"mask_decoder.{key}"])
    assert torch.equal(state["pixel_decoder.frequencies"], sam["shared_image_embedding.positional_embedding"])
    assert torch.equal(state["pixel_decoder.no_mask_embed"], sam["prompt_encoder.no_mask_embed.weight"])
    assert begun.config.sam_decoder_config.layer_norm_eps == 1e-5

    result = training.train(recipe, tmp_path / "run", KNOWN_MODELS)
    after = load_file(result / "model.safetensors")
    changed = {key.split(".")[0] for key in state if key in after and not torch.equal(state[key], after[key])}
    assert changed == {"language_model", "codebook", "pixel_decoder"}
    for frozen in ("pixel_decoder.no_mask_embed", "pixel_decoder.frequencies", "codebook.token_weights"):
        assert torch.equal(state[frozen], after[frozen])

    found = load_segmenter(result)
    assert isinstance(found, Predictor)
    assert isinstance(found.model, LisaForConditionalGeneration)
    (source,) = recipe.data.sets
    further = training.fine_tune(Path(source), str(result), tmp_path / "further", KNOWN_MODELS, steps=1)
    assert load_segmenter(further).model.config.sam_decoder_config.layer_norm_eps == 1e-5

    options = ["--model", str(result), "--max-new-tokens", "6", "--json", str(tmp_path / "a.json")]
    cli.app(["ask", "example:cat", "Where is the dog?", *options], standalone_mode=False)
    assert "text" in json.loads((tmp_path / "a.json").read_text())


def test_a_run_goes_on_where_it_stopped(recipe, tmp_path) -> None:
    whole = load_file(training.train(recipe, tmp_path / "run", KNOWN_MODELS) / "model.safetensors")
    shutil.rmtree(tmp_path / "run/model")
    shutil.rmtree(tmp_path / "run/checkpoints/checkpoint-4")
    again = load_file(training.train(recipe, tmp_path / "run", KNOWN_MODELS) / "model.safetensors")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_cached_equals_teacher_forced(parts) -> None:
    """The mask that generation gives is that of one pass over the whole text, for several [SEG] in one answer."""
    model, processor = KNOWN_MODELS.open(parts).load(0)
    tiny.randomise(model, 3)
    answer = "The dog {seg} and the cat {seg}."
    write = tiny.Write(processor, {"Go.": tiny.plan_of(processor, answer)})
    predictor = Predictor(model.eval(), processor, sampling={"processors": (write,)})
    predictor.set_image(tiny.picture(60, 40))
    written = predictor.ask("Go.")
    (given,) = predictor.segment_given(["Go."], [answer])
    assert len(written.targets) == len(given.targets) == 2
    for ours, theirs in zip(written.targets, given.targets, strict=True):
        assert (ours.mask != theirs.mask).mean() < 1e-3
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
    assert not (written.targets[0].mask == written.targets[1].mask).all()


def test_lisa_rec_is_two_stages_of_one_model(parts, tmp_path) -> None:
    model, processor = KNOWN_MODELS.open(parts).load(0)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "lisa")
    system = load_segmenter(tmp_path / "lisa", namer=str(tmp_path / "lisa"), sampling={"max_new_tokens": 4})
    assert isinstance(system, TwoStage)
    assert system.namer.predictor is system.grounder.predictor
    system.set_image(tiny.picture(60, 40))
    assert system.ask("Where is the dog?").question == "Where is the dog?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sam_model": None}, "expected a sam_model with this preset"),
        ({"preset": "pixellm-7b"}, "expected no sam_model with this preset"),
        ({"sam_model": "clip"}, "expected a SAM in transformers' format"),
        ({"settings": {"tokens_per_scale": 2}}, r"expected one \[SEG\] a target"),
    ],
)
def test_bad_starts(parts, change, message, tmp_path) -> None:
    with pytest.raises(ValueError, match="expected the same width of prompts and maps"):
        LisaConfig(decoder_dim=16)
    if change.get("sam_model") == "clip":
        change = {"sam_model": parts.vision_model}
    with pytest.raises(ValueError, match=message):
        KNOWN_MODELS.open(replace(parts, **change)).load(0)
