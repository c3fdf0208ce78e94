"""Counted FLOPs against closed-form formulas and published sizes."""

from dataclasses import fields

import pytest
from transformers import SamVisionConfig

from pixellm.checkpoints.presets import CLIP_LARGE, PixelLMVisionConfig, pixellm_7b
from pixellm.cost.language import LanguageCostModel
from pixellm.cost.models import open_cost_model, with_image_size
from pixellm.cost.seem import SeemCostModel
from tests.support import closed_form, tiny
from tests.support.costs import LANGUAGE_PRESETS, TERA, system

# Counted = closed form


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("pixellm-mini", "pixellm-7b") else pytest.mark.slow)
        for name in LANGUAGE_PRESETS
    ],
)
def test_counts_are_those_of_the_formulas(name: str) -> None:
    counted, formula = system(name), closed_form.closed_form(system(name).config)
    found = {
        "vision": counted.vision,
        "sam": counted.sam and counted.sam.flops,
        "llm_projector": counted.llm_projector,
        "decoder_features": counted.decoder_features,
        "per_token": counted.layers.per_token,
        "per_pair": counted.layers.per_pair,
        "head": counted.head,
        "masks_per_call": counted.mask_head.per_call,
        "masks_per_target": counted.mask_head.per_target,
    }
    assert found.keys() == {field.name for field in fields(formula)}
    assert (formula.sam is None) == (not name.startswith("lisa-1") and name != "lisa-7b")
    assert (formula.vision is None) == name.endswith("mini")  # EfficientNet has no formula
    for part, expected in vars(formula).items():
        if expected is not None:
            assert found[part] == pytest.approx(expected, rel=0.01), part


@pytest.mark.parametrize("config", [tiny.clip_config(), tiny.timm_config(), tiny.clip_config(tokens_per_scale=3)])
def test_other_configurations_too(config) -> None:
    counted, formula = LanguageCostModel("tiny", config), closed_form.closed_form(config)
    assert counted.decoder_features == pytest.approx(formula.decoder_features, rel=0.01)
    assert counted.mask_head.per_target == pytest.approx(formula.masks_per_target, rel=0.01)
    assert counted.layers.per_pair == pytest.approx(formula.per_pair, rel=0.01)


@pytest.mark.parametrize("name", [pytest.param("seem-focal-large", marks=pytest.mark.slow), "seem-focal-tiny"])
def test_seem_counts_are_those_of_the_formulas(name: str) -> None:
    counted, tokens = open_cost_model(name), 15
    assert isinstance(counted, SeemCostModel)
    first = 192 if name.endswith("large") else 96
    formula = closed_form.seem_closed_form(counted.config, [8 * first, 4 * first, 2 * first, first], tokens)
    head = counted.mask_head(tokens)
    assert counted.pixel_decoder == pytest.approx(formula.pixel_decoder, rel=0.01)
    assert counted.phrase(tokens) == pytest.approx(formula.phrase, rel=0.01)
    assert head.per_call == pytest.approx(formula.masks_per_call, rel=0.01)
    assert head.per_target == pytest.approx(formula.masks_per_target, rel=0.01)


# Published sizes: shared/spec/baselines.md, section 3


@pytest.mark.parametrize(("size", "tflop"), [(224, 0.162), (336, 0.382), (448, 0.724)])
def test_clip(size: int, tflop: float) -> None:
    config = PixelLMVisionConfig(kind="clip", image_size=size, clip=CLIP_LARGE).clip_config
    assert closed_form.clip(config, 24) / TERA == pytest.approx(tflop, rel=0.01)


def test_sam() -> None:
    assert system("lisa-7b").sam.flops / TERA == pytest.approx(5.961, rel=0.01)
    large = SamVisionConfig(hidden_size=1024, num_hidden_layers=24, global_attn_indexes=[5, 11, 17, 23], mlp_dim=4096)
    large.num_attention_heads = 16
    assert closed_form.sam_encoder(large) / TERA == pytest.approx(2.986, rel=0.01)
    base = SamVisionConfig(global_attn_indexes=[2, 5, 8, 11], mlp_dim=3072)
    assert closed_form.sam_encoder(base) / TERA == pytest.approx(0.972, rel=0.01)
    decoder = closed_form.sam_mask_decoder(system("lisa-7b").config.sam_decoder_config, grid=64)
    assert decoder / TERA == pytest.approx(0.0036, rel=0.02)  # given with two figures


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("pixellm-7b", {330: 4.42, 400: 5.37, 500: 6.74, 512: 6.90}),
        ("pixellm-13b", {330: 8.57, 400: 10.41, 500: 13.06, 512: 13.38}),
    ],
)
def test_llama(name: str, figures: dict[int, float]) -> None:
    one = system(name)
    for tokens, tflop in figures.items():
        assert (one.layers.flops(tokens) + one.head * tokens) / TERA == pytest.approx(tflop, rel=0.01)


@pytest.mark.parametrize(("name", "backbone", "size"), [("large", 1.494, 1024), ("large", 0.513, 600)])
def test_seem(name: str, backbone: float, size: int) -> None:
    """Focal-L; the other figure is for 512 × 704, as many pixels as a square of 600."""
    seem = open_cost_model(f"seem-focal-{name}", size // 32 * 32)
    assert isinstance(seem, SeemCostModel)
    pixels = seem.config.vision_config.image_size**2
    assert seem.vision.flops / TERA == pytest.approx(
        backbone * pixels / (1024**2 if size == 1024 else 512 * 704), rel=0.02
    )


def test_image_size() -> None:
    smaller = LanguageCostModel("smaller", with_image_size(pixellm_7b(), 336))
    expected = closed_form.clip(smaller.config.vision_config.clip_config, 23)
    assert smaller.config.vision_config.image_size == 336
    assert smaller.vision == pytest.approx(expected, rel=0.01)
    at_448 = with_image_size(LANGUAGE_PRESETS["lisa-7b"](), 448)
    assert at_448.sam_vision_config.image_size == 448
    assert at_448.vision_config.image_size == 224
    for name, size in (("pixellm-7b", 450), ("lisa-7b", 450), ("seem", 450)):
        with pytest.raises(ValueError, match="multiple"):
            open_cost_model(name, size)
