import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from pixellm.model import PixelLMConfig, PixelLMForConditionalGeneration, PixelLMVisionConfig
from tests.support import tiny

SWITCHES = ("learned_fusion", "own_state", "train_neck")
TEXT = {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}


def config(**changes):
    return PixelLMConfig(text_config=LlamaConfig(**TEXT), **changes)


def test_switches_of_the_paper_and_of_the_released_code():
    assert [getattr(config(), name) for name in SWITCHES] == [True, True, True]
    assert config().compat == "paper"
    assert [getattr(config(compat="released"), name) for name in SWITCHES] == [False, False, False]


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("compat", ["paper", "released"])
def test_one_switch_changes_alone(name, compat):
    plain = config(compat=compat)
    changed = config(compat=compat, **{name: not getattr(plain, name)})
    assert {s for s in SWITCHES if getattr(plain, s) != getattr(changed, s)} == {name}


@pytest.mark.parametrize(
    ("compat", "frozen"),
    [
        ("paper", set()),
        (
            "released",
            {"codebook.token_weights", "pixel_decoder.scale_weights", "pixel_decoder.no_mask_embed"}
            | {f"neck.{i}" for i in ("0.weight", "1.weight", "1.bias", "2.weight", "3.weight", "3.bias")},
        ),
    ],
)
def test_what_trains(compat, frozen):
    model = PixelLMForConditionalGeneration(tiny.clip_config(compat=compat))
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen
    mean = 1 / 3 if compat == "paper" else 1 / 6
    assert torch.equal(model.codebook.token_weights, torch.full((2, 3), mean))
    assert torch.equal(model.pixel_decoder.scale_weights, torch.full((2,), 0.5))


def test_a_fresh_model_is_random_where_it_must_be():
    """Position codes and tokens of zeros would make all places and all levels the same."""
    torch.manual_seed(0)
    decoder = PixelLMForConditionalGeneration(tiny.clip_config()).pixel_decoder
    for name in ("coarse_frequencies", "fine_frequencies", "iou_token", "mask_tokens", "level_embed", "no_mask_embed"):
        assert 0.5 < getattr(decoder, name).std() < 1.5, name
    assert not torch.equal(decoder.coarse_frequencies, decoder.fine_frequencies)


def test_defaults_are_the_released_sizes():
    vision = PixelLMVisionConfig(
        clip={"patch_size": 14, "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24}
    )
    default = PixelLMConfig(vision_config=vision)
    assert (default.num_scales, default.tokens_per_scale, default.llm_grid, default.decoder_dim) == (2, 3, 16, 256)
    assert vision.image_size == 448
    assert vision.hidden_size == 1024
    assert vision.grid_sizes == [32, 32]
    assert vision.hidden_layers == [-2, -11]
    assert default.decoder_grids == [32, 64]


def test_codebook_ids_default_to_the_end_of_the_vocabulary():
    assert config().codebook_ids == [94, 95, 96, 97, 98, 99]
    assert config(tokens_per_scale=1).codebook_ids == [98, 99]


def test_pyramid_sizes():
    vision = PixelLMVisionConfig(kind="timm", image_size=96, reductions=(32, 16, 4), hidden_size=24)
    assert vision.grid_sizes == [3, 6, 24]
    assert vision.hidden_size == 24
    assert config(vision_config=vision, num_scales=3).decoder_grids == [3, 6, 24]


def test_the_decoder_may_use_fewer_scales_than_there_are():
    """The finest ones; the language model reads the coarsest all the same."""
    made = tiny.timm_config(num_scales=2, tokens_per_scale=3)
    assert made.vision_config.grid_sizes == [2, 4, 8]
    assert made.decoder_grids == [4, 8]
    model = tiny.build(made)
    pixels, hw = torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]])
    images = model.encode_images(pixels, hw)
    assert [map_.shape[-1] for map_ in images.maps] == [4, 8]
    model.config.num_scales = 3
    every = model.encode_images(pixels, hw)
    assert torch.equal(images.tokens, every.tokens)
    assert all(map(torch.equal, images.maps, every.maps[1:]))


def test_dictionaries_do_as_well():
    made = PixelLMConfig(
        vision_config={"kind": "timm", "image_size": 64, "reductions": [32, 16]},
        text_config={"model_type": "llama", **TEXT},
    )
    assert isinstance(made.text_config, LlamaConfig)
    assert made.text_config.hidden_size == 32
    assert made.vision_config.grid_sizes == [2, 4]


def test_clip_config_has_the_image_size():
    vision = PixelLMVisionConfig(image_size=84, clip=tiny.CLIP_SIZES, hidden_layers=(-2, 0))
    assert isinstance(vision.clip_config, CLIPVisionConfig)
    assert vision.clip_config.image_size == 84
    assert vision.clip_config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compat": "original"}, "'paper' or 'released', got 'original'"),
        ({"num_scales": 0}, "num_scales: expected a whole number from 1"),
        ({"tokens_per_scale": 0}, "tokens_per_scale: expected a whole number from 1"),
        ({"codebook_ids": [1, 2, 3]}, "expected 6 different ids"),
        ({"codebook_ids": [1, 2, 3, 4, 5, 5]}, "expected 6 different ids"),
        ({"num_scales": 3}, r"a vision feature for each of 3 scales, got 2.*hidden_layers"),
    ],
)
def test_bad_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 60, "clip": tiny.CLIP_SIZES}, "multiple of CLIP's patch of 14 pixels, got 60. Use 56"),
        ({"image_size": 10, "clip": tiny.CLIP_SIZES}, "got 10. Use 14"),
        ({"kind": "timm", "reductions": (8, 16)}, "from coarse to fine"),
        ({"kind": "timm", "image_size": 100}, "multiple of the coarsest stride 32, got 100"),
        ({"kind": "sam"}, "'clip' or 'timm', got 'sam'"),
    ],
)
def test_bad_vision_sizes(fields, message):
    with pytest.raises(ValueError, match=message):
        PixelLMVisionConfig(**fields)


def test_layer_that_clip_does_not_have():
    """Counted round the end, -11 of 4 layers would silently be another one."""
    with pytest.raises(ValueError, match="hidden_layers"):
        PixelLMVisionConfig(image_size=56, clip=tiny.CLIP_SIZES, hidden_layers=(-2, -11))


def test_attention_width():
    with pytest.raises(ValueError, match="divisible by its 8 heads"):
        PixelLMForConditionalGeneration(tiny.clip_config(decoder_dim=40))
