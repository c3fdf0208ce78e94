"""Parameter counts of the published sizes, part by part, as the released implementation has them."""

import pytest
import torch

from pixellm.hub.presets import PRESETS
from pixellm.mini.modeling import MiniForConditionalGeneration
from pixellm.mini.parts import PRETRAINED
from pixellm.model import PixelLMForConditionalGeneration
from pixellm.utils.weights import read_weights

# Counted from the shapes of the released state dicts.
LLAMA = {"pixellm-7b": 6_738_489_344, "pixellm-13b": 13_015_946_240}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "width"), [("pixellm-7b", 4096), ("pixellm-13b", 5120)])
def test_parameter_counts(name: str, width: int) -> None:
    with torch.device("meta"):
        model = PixelLMForConditionalGeneration(PRESETS[name]())
    assert count(model.language_model) == LLAMA[name]
    # 7,571,940 in the released decoder, no_mask_embed (there in the prompt encoder), and two learned scale weights.
    assert count(model.pixel_decoder) == 7_571_940 + 256 + 2
    assert count(model.neck) == width * 256 + 256 * 256 * 9 + 4 * 256
    assert count(model.codebook.project) == width * width + width + width * 256 + 256
    projector = 1024 * 2 * width + 2 * width + 2 * width * width + width
    assert count(model.llm_projector) == count(model.pixel_projector) == projector
    assert model.config.codebook_ids[-1] < model.config.text_config.vocab_size
    assert model.vision_encoder.clip.embeddings.position_embedding.weight.shape == (1025, 1024)


def test_spec_figures() -> None:
    """The rounded figures of the method's description: 1.64 / 1.90 M neck, 17.8 / 27.5 M codebook, 83.9 / 125.9 M."""
    for name, neck, codebook, projectors in (
        ("pixellm-7b", 1.64, 17.8, 83.9),
        ("pixellm-13b", 1.90, 27.5, 125.9),
    ):
        with torch.device("meta"):
            model = PixelLMForConditionalGeneration(PRESETS[name]())
        assert round(count(model.neck) / 1e6, 2) == neck
        assert round(count(model.codebook.project) / 1e6, 1) == codebook
        both = count(model.llm_projector) + count(model.pixel_projector)
        assert round(both / 1e6, 1) == projectors


def test_mini_is_what_is_shipped() -> None:
    config = PRESETS["pixellm-mini"]()
    with torch.device("meta"):
        model = MiniForConditionalGeneration(config)
    assert count(model.language_model) == 134_515_008 + len(config.codebook_ids) * 576  # SmolLM2-135M and the codebook
    shipped = read_weights(PRETRAINED)
    pixel_side = {k: t.shape for k, t in model.state_dict().items() if not k.startswith("language_model.")}
    assert {k: t.shape for k, t in shipped.items() if not k.startswith("language_model.")} == pixel_side
