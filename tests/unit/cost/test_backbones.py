"""Costs of PixelLM on published vision-language models: parameters, and formulas against counts."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from pixellm.backbones.adapter import ImageLoad
from pixellm.backbones.create import NewParts, extend
from pixellm.backbones.presets import CODEBOOK, PRESETS
from pixellm.cli import app
from pixellm.cost.backbones import BackboneCostModel
from pixellm.cost.breakdown import Component, Scenario
from pixellm.cost.counting import measure, on_meta, parameters
from pixellm.cost.models import open_cost_model
from pixellm.train.model_kind import has_tied_embeddings
from tests.support import closed_form
from tests.support.tiny_vlms import position_image, tiny_vlm

# Parameters as the Hub counts them in each model's files: `safetensors.total` of https://huggingface.co/api/models/ID.
PUBLISHED = {
    "qwen3-vl-4b": 4_437_815_808,  # Qwen/Qwen3-VL-4B-Instruct
    "qwen3-vl-8b": 8_767_123_696,  # Qwen/Qwen3-VL-8B-Instruct
    "internvl3.5-8b": 8_528_318_464,  # OpenGVLab/InternVL3_5-8B-HF
    "smolvlm2-2.2b": 2_246_784_880,  # HuggingFaceTB/SmolVLM2-2.2B-Instruct
    "gemma3-4b": 4_300_079_472,  # google/gemma-3-4b-it
}


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_published(name: str) -> None:
    model = on_meta(PRESETS[name]())
    tables = 1 if has_tied_embeddings(model) else 2
    new_rows = tables * CODEBOOK * model.config.text_config.hidden_size
    assert parameters(model.backbone) - new_rows == PUBLISHED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_counts_are_those_of_the_formulas(name: str) -> None:
    counted = open_cost_model(name)
    assert isinstance(counted, BackboneCostModel)
    text = counted.config.text_config
    per_token, per_pair = closed_form.language_layers(text)
    assert counted.layers.per_token == pytest.approx(per_token, rel=0.01)
    assert counted.layers.per_pair == pytest.approx(per_pair, rel=0.01)
    assert counted.head == closed_form.linear(1, text.hidden_size, text.vocab_size)
    assert counted.breakdown(Scenario()).parameters == parameters(counted.model)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("internvl3.5-8b", 448), ("gemma3-4b", 896)])
def test_formula_of_the_tower_is_what_is_counted_on_the_meta_device(name: str, side: int) -> None:
    model = open_cost_model(name)
    assert isinstance(model, BackboneCostModel)
    tokens = model.load.tokens
    model.load = ImageLoad(1, tokens, 256)
    pixels = torch.empty(1, 3, side, side, dtype=torch.bfloat16, device="meta")
    assert model.vision == pytest.approx(
        measure(lambda: model.model._features({"pixel_values": pixels})).flops, rel=0.01
    )


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "smolvlm", "gemma3"])
def test_formula_of_the_tower_is_what_is_counted_of_real_images(family: str) -> None:
    if family == "smolvlm":
        pytest.importorskip("num2words")
    base, base_processor = tiny_vlm(family)
    model, processor = extend(base, base_processor, NewParts(decoder_dim=32, mask_grid=8))
    image = processor.image_inputs(position_image(112, 112))
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        features = model._features(image.pixels)
    states = features.hidden_states[0]
    counted = BackboneCostModel("tiny", model.config)
    sequences, tokens = (1, states.shape[0]) if states.ndim == 2 else states.shape[:2]
    tokens_read = image.prefix_ids.count(model.config.base_config.image_token_id)
    counted.load = ImageLoad(sequences, tokens, tokens_read)
    assert counted.vision == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.slow
def test_the_commands_know_them() -> None:
    shown = CliRunner().invoke(app, ["cost", "smolvlm2-2.2b"])
    assert shown.exit_code == 0
    assert "2.27 G" in shown.output
    plan = ["models", "plan", "smolvlm2-2.2b", "--device", "cpu", "--dtype", "bfloat16"]
    assert "weights, language model" in CliRunner().invoke(app, plan).output
    assert "int8" in CliRunner().invoke(app, [*plan, "--quantize", "int8"], catch_exceptions=False).output


@pytest.mark.slow
def test_a_breakdown_has_the_parts_of_a_vlm() -> None:
    model = BackboneCostModel("tiny", extend(*tiny_vlm("gemma3"), NewParts(decoder_dim=32, mask_grid=8))[0].config)
    breakdown = model.breakdown(Scenario())
    assert [line.part for line in breakdown.lines[:3]] == [
        Component.VISION,
        Component.DECODER_FEATURES,
        Component.PREFILL,
    ]
    assert breakdown.parameters == parameters(model.model)
    assert model.memory(Scenario()).weights["int4"] == 2 * parameters(model.model)
    with pytest.raises(ValueError, match="image size"):
        open_cost_model("smolvlm2-2.2b", image_size=448)
