"""Save → load gives the same model, buffers included; a checkpoint is safetensors and JSON, nothing else."""

import inspect
import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, LlamaConfig

from pixellm.mini.configuration import MiniConfig, MiniVisionConfig
from pixellm.model import PixelLMConfig, PixelLMProcessor, PixelLMVisionConfig
from pixellm.predictor import Predictor
from tests.support import tiny

QUESTION = "Where is the dog?"
CONFIGS = {
    "clip": tiny.clip_config,
    "timm": tiny.timm_config,
    "detector": tiny.detector_config,
    "released": lambda: tiny.clip_config(compat="released"),
}


def save(tmp_path, config):
    model = tiny.build(config)
    processor = tiny.tiny_processor(config.vision_config.image_size, config.num_image_tokens)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return model, processor


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def saved(request, tmp_path):
    return tmp_path, *save(tmp_path, request.param())


def test_round_trip_through_the_auto_classes(saved):
    directory, model, processor = saved
    loaded, loaded_processor = AutoModel.from_pretrained(directory), AutoProcessor.from_pretrained(directory)
    assert type(loaded) is type(model)
    assert type(loaded_processor) is PixelLMProcessor
    same_tensors(loaded, model)
    same_answers(Predictor(loaded, loaded_processor), Predictor(model, processor))


def test_round_trip_through_the_own_classes(saved):
    directory, model, processor = saved
    loaded = type(model).from_pretrained(directory)
    assert not loaded.training
    same_tensors(loaded, model)
    same_answers(Predictor(loaded, PixelLMProcessor.from_pretrained(directory)), Predictor(model, processor))


def test_what_is_frozen_stays_frozen(saved):
    """Released constants and, without `train_neck`, the neck are no parameters to train; also after loading."""
    directory, model, _ = saved
    loaded = type(model).from_pretrained(directory)
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert ("codebook.token_weights" in frozen) == (model.config.compat == "released")


def test_reloading_in_half_precision_only_rounds(saved):
    directory, model, _ = saved
    loaded = type(model).from_pretrained(directory, dtype=torch.bfloat16)
    expected = model.state_dict()
    for key, tensor in loaded.state_dict().items():
        if expected[key].is_floating_point():
            assert torch.equal(tensor, expected[key].to(tensor.dtype)), key
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_only_safetensors_and_json(saved):
    directory, *_ = saved
    assert {path.suffix for path in directory.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_second_generation_is_identical(saved, tmp_path_factory):
    directory, *_ = saved
    again = tmp_path_factory.mktemp("again")
    AutoModel.from_pretrained(directory).save_pretrained(again)
    AutoProcessor.from_pretrained(directory).save_pretrained(again)
    assert {p.name for p in again.iterdir()} == {p.name for p in directory.iterdir()}
    assert (again / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
    for name in ("config.json", "processor_config.json", "tokenizer.json"):
        assert settings_in(again / name) == settings_in(directory / name), name


def settings_in(path):
    settings = json.loads(path.read_text())
    for part in ("vision_config", "text_config"):
        settings.get(part, {}).pop("dtype", None)  # transformers writes the model's into its parts when it loads
    return settings


def same_tensors(loaded, model):
    # Buffers that are not saved, too: they are rebuilt while loading.
    for kind in ("named_parameters", "named_buffers"):
        ours = dict(getattr(model, kind)())
        theirs = dict(getattr(loaded, kind)())
        assert theirs.keys() == ours.keys()
        for key, tensor in ours.items():
            assert theirs[key].dtype == tensor.dtype, key
            assert torch.equal(theirs[key], tensor), key


def same_answers(loaded, original):
    image = tiny.picture(60, 35)
    group = original.processor.codebook_ids[0]
    for predictor in (loaded, original):
        predictor.set_image(image)
    write = tiny.Write(original.processor, {QUESTION: [None, None, group, None, group]})
    answers = [predictor.ask(QUESTION, processors=(write,)) for predictor in (loaded, original)]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].text == answers[1].text
    assert len(answers[0].targets) == 2
    for got, expected in zip(answers[0].targets, answers[1].targets, strict=True):
        assert (got.mask == expected.mask).all()
        assert got.score == pytest.approx(expected.score, rel=1e-5)
        assert got.span == expected.span


def test_processor_settings(tmp_path):
    processor = tiny.tiny_processor(56, 4)
    processor.strip_text = True
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    processor.image_processor.image_std = [0.4, 0.5, 0.6]
    processor.save_pretrained(tmp_path)
    loaded = PixelLMProcessor.from_pretrained(tmp_path)
    names = [
        "codebook_tokens",
        "num_image_tokens",
        "system",
        "prefix",
        "prompt",
        "answer",
        "control_tokens",
        "strip_text",
    ]
    for name in names:
        assert getattr(loaded, name) == getattr(processor, name), name
    for name in ("image_size", "image_mean", "image_std"):
        assert getattr(loaded.image_processor, name) == getattr(processor.image_processor, name), name
    assert loaded.prefix_ids == processor.prefix_ids
    assert loaded.codebook_ids == processor.codebook_ids
    assert loaded.eos_ids == processor.eos_ids


VISION = {
    "kind": "timm",
    "image_size": 96,
    "clip": {"hidden_size": 48, "patch_size": 16},
    "hidden_layers": [-2, -4, -6],
    "backbone": "resnet18",
    "reductions": [32, 8, 4],
    "hidden_size": 24,
    "drop_path": 0.1,
}
CLIP_VISION = VISION | {"kind": "clip", "hidden_size": 48}
FIELDS = {
    "num_scales": 3,
    "tokens_per_scale": 4,
    "codebook_ids": list(range(50, 62)),
    "llm_grid": 5,
    "projector_ratio": 1.5,
    "pixel_feature_size": 20,
    "decoder_dim": 64,
    "decoder_depth": 1,
    "decoder_heads": 4,
    "decoder_mlp_dim": 96,
    "num_mask_tokens": 2,
    "compat": "released",
    "learned_fusion": True,
    "own_state": True,
    "train_neck": True,
}

MINI_VISION = {
    "vocabulary": ["dog", "red apple"],
    "classifier_dropout": 0.3,
    "detector_classes": ["red apple"],
    "num_detections": 7,
}
MINI_FIELDS = {
    "vocabulary_ids": [[[3]], [[4, 5], [6]]],
    "num_candidates": 5,
    "peak_share": 0.25,
    "default_sampling": {"no_repeat_ngram_size": 7},
    "embedding_skip": 1.5,
    "refine_width": 32,
    "mask_width": 24,
}


def fields_of(cls):
    return {name for name in inspect.signature(cls).parameters if name != "kwargs"}


@pytest.mark.parametrize("vision", [VISION, CLIP_VISION], ids=["timm", "clip"])
@pytest.mark.parametrize("switches", ["paper", "released"])
def test_every_field_of_the_config(tmp_path, vision, switches):
    fields = FIELDS | {"compat": switches}
    if switches == "paper":
        fields |= {"learned_fusion": False, "own_state": False, "train_neck": False}
    assert vision.keys() == fields_of(PixelLMVisionConfig)
    assert fields.keys() | {"vision_config", "text_config"} == fields_of(PixelLMConfig)
    text = LlamaConfig(
        vocab_size=70,
        hidden_size=48,
        num_attention_heads=6,
        num_hidden_layers=3,
        rms_norm_eps=1e-4,
        tie_word_embeddings=True,
    )
    PixelLMConfig(PixelLMVisionConfig(**vision), text, **fields).save_pretrained(tmp_path)
    for loaded in (PixelLMConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is PixelLMConfig
        assert type(loaded.text_config) is LlamaConfig
        for name, value in fields.items():
            assert getattr(loaded, name) == value, name
        for name, value in vision.items():
            assert getattr(loaded.vision_config, name) == value, name
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps", "tie_word_embeddings"):
            assert getattr(loaded.text_config, name) == getattr(text, name), name


def test_every_field_of_the_mini_config(tmp_path):
    own = {"vision_config", "text_config"}
    assert MINI_VISION.keys() == fields_of(MiniVisionConfig)
    assert MINI_FIELDS.keys() | own == fields_of(MiniConfig)
    fields = FIELDS | MINI_FIELDS
    MiniConfig(MiniVisionConfig(**VISION | MINI_VISION), tiny.text_config(), **fields).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert (type(loaded), type(loaded.vision_config)) == (MiniConfig, MiniVisionConfig)
    for name, value in fields.items():
        assert getattr(loaded, name) == value, name
    for name, value in (VISION | MINI_VISION).items():
        assert getattr(loaded.vision_config, name) == value, name
