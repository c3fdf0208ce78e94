"""Training from what `pixellm init` made: gradients, a falling loss, merged adapters, and scenes learned by heart."""

from pathlib import Path

import numpy as np
import pytest
import torch

import pixellm
from pixellm.backbones import BackboneForConditionalGeneration
from pixellm.backbones.create import NewParts, extend
from pixellm.backbones.kind import NEW_PARTS, BackboneKind
from pixellm.checkpoints.lora import merge_trained
from pixellm.train.model_kind import adapt
from pixellm.train.recipe import AdapterConfig
from pixellm.train.run import fine_tune
from pixellm.train.state import trained_state
from pixellm.training import KNOWN_MODELS
from pixellm.types import Conversation, Sample
from tests.support.by_heart import WAYS, by_heart
from tests.support.shapes import write_scenes
from tests.support.tiny_vlms import families, position_image, tiny_vlm

KIND = BackboneKind()
LORA, FULL = AdapterConfig(rank=4, alpha=8), AdapterConfig(rank=0)
both = pytest.mark.parametrize("adapters", [LORA, FULL], ids=["lora", "full"])


def initialised(family: str, decoder_dim: int = 32, mask_grid: int = 8):
    return extend(*tiny_vlm(family), NewParts(decoder_dim=decoder_dim, mask_grid=mask_grid))


def batch_of(processor):
    mask = np.zeros((2, 60, 80), dtype=bool)
    mask[0, 10:30, 10:40] = mask[1, 30:50, 50:70] = True
    turns = (
        Conversation("What is there?", "It is the dog {seg} and the cat {seg}.", mask),
        Conversation("Where is the table?", "Nothing.", mask[:0]),
    )
    return processor([Sample(position_image(60, 80), turns)])


@families
@both
def test_gradients_reach_what_trains_and_nothing_else(family, adapters):
    model, processor = initialised(family)
    adapt(model, KIND, adapters, NEW_PARTS)
    if adapters.rank:
        with torch.no_grad():  # else the inner half of each adapter has no gradient yet
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
    model(**vars(batch_of(processor))).loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    without = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
    # Key biases shift all scores alike; the mask tokens' quality scores and further masks are not read.
    assert [name for name in without if "k_proj.bias" not in name and not name.startswith("pixel_decoder.")] == []
    base = [name for name in trained if name.startswith("backbone.")]
    assert not any("vision" in name or "visual" in name or "projector" in name for name in base)
    assert {name.split(".")[0] for name in trained} == {"backbone", *NEW_PARTS}
    if adapters.rank:
        assert all("lora_" in name or "trainable_tokens_delta" in name for name in base)
        rows = [p for name, p in trained.items() if "trainable_tokens_delta" in name]
        assert {p.shape[0] for p in rows} == {len(processor.codebook_ids)}
        assert all(bool((p.grad.abs().sum(dim=1) > 0).all()) for p in rows)


@both
def test_the_loss_falls(adapters):
    model, processor = initialised("qwen3_vl")
    adapt(model, KIND, adapters, NEW_PARTS)
    batch = vars(batch_of(processor))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(8):
        loss = model(**batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@families
def test_merged_adapters_equal_unmerged_ones(family):
    model, processor = initialised(family)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapt(model, KIND, LORA, NEW_PARTS)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        expected = model(**vars(batch_of(processor)))
    tied = plain.keys() - {name for name, _ in initialised(family)[0].named_parameters(remove_duplicate=True)}
    base = {name: t for name, t in plain.items() if not (name in tied and "lm_head" in name)}
    merged, _ = initialised(family)
    merged.load_state_dict(merge_trained(base, trained_state(model), LORA.alpha, processor.codebook_ids), strict=False)
    with torch.no_grad():
        output = merged(**vars(batch_of(processor)))
    torch.testing.assert_close(output.loss, expected.loss, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.mask_logits[0], expected.mask_logits[0], atol=2e-3, rtol=1e-3)


def checkpoint(family: str, folder: Path, **sizes) -> Path:
    for part in initialised(family, **sizes):
        part.save_pretrained(folder)
    return folder


def test_one_command_trains_it_on_own_data(tmp_path):
    """`pixellm train --data`: a whole model in its directory, whose base is as it was but for the adapted layers."""
    data, start = write_scenes(tmp_path / "data", 2), checkpoint("qwen3_vl", tmp_path / "start")
    result = fine_tune(data, str(start), tmp_path / "run", KNOWN_MODELS, steps=2)  # the rate begins at 0
    trained, before = (BackboneForConditionalGeneration.from_pretrained(path) for path in (result, start))
    changed = {name for name, t in trained.state_dict().items() if not torch.equal(t, before.state_dict()[name])}
    assert not any("visual" in name for name in changed)
    assert any("q_proj" in name for name in changed)
    assert any(name.startswith("pixel_decoder.") for name in changed)
    table = "backbone.model.language_model.embed_tokens.weight"
    rows = (trained.state_dict()[table] != before.state_dict()[table]).any(dim=1).nonzero()[:, 0].tolist()
    assert rows == trained.config.codebook_ids
    assert pixellm.load(result)(data.parent / "0.png", "What is there?", max_new_tokens=4).token_ids


def test_parts_are_refused():
    with pytest.raises(ValueError, match="pixellm init"):
        KIND.describe(None, None)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_scenes_are_learned_by_heart(way, tmp_path):
    """Colour, shape, one target, two and none: all texts right, all masks in their place."""
    learned = by_heart("llava", way, scenes=4, steps=400, folder=tmp_path)
    assert learned.wrong == []
    assert learned.masks == 4 * 3
    assert learned.iou > 0.9
