"""Where codebook tokens look."""

import numpy as np
import pytest
import torch
from PIL import Image

from pixellm.eval.attention import attention_sheet, codebook_attention
from pixellm.imaging.geometry import restore
from pixellm.model.two_way import Attention
from pixellm.predictor import Predictor
from tests.support import tiny


def test_weights_are_those_of_the_attention() -> None:
    """With the values projected by hand, they give what the layer gives."""
    torch.manual_seed(0)
    layer = Attention(8, 2, 4)
    query, key, value = torch.randn(3, 2, 8), torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    weights = layer.weights(query, key)
    assert weights.shape == (3, 2, 2, 5)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(3, 2, 2))
    heads = [weights[:, h] @ layer.v_proj(value)[..., 2 * h : 2 * h + 2] for h in range(2)]
    assert torch.allclose(layer.out_proj(torch.cat(heads, dim=-1)), layer(query, key, value), atol=1e-6)


def test_a_map_for_each_token_and_the_fused_prompt(tiny_pair, tmp_path, monkeypatch) -> None:
    model, processor = tiny_pair
    plan = {"Where is the dog?": tiny.plan_of(processor, "The dog {seg} and the cat {seg}.")}
    write = tiny.Write(processor, plan)
    monkeypatch.setattr("pixellm.inference.sampling.build_processors", lambda _: write)
    answer, targets = codebook_attention(Predictor(*tiny_pair), tiny.picture(40, 30), "Where is the dog?")
    predictor = Predictor(*tiny_pair)
    looked: list[torch.Tensor] = []
    finest = model.pixel_decoder.transformers[-1].final_attn_token_to_image
    hook = finest.register_forward_pre_hook(lambda layer, inputs: looked.append(layer.weights(*inputs[:2])))
    predictor.set_image(tiny.picture(40, 30))
    predictor.ask("Where is the dog?")
    hook.remove()
    for target, weights in zip(targets, looked, strict=True):  # the last column is how the masks were made
        grid = model.pixel_decoder.grids[-1]
        seen = weights.mean(dim=1)[0, -1].reshape(1, grid, grid)
        height, width = processor.images([tiny.picture(40, 30)])["resized_hw"][0].tolist()
        map_ = restore(seen, (height, width), (30, 40))[0]
        assert np.allclose(target.scales[-1][-1], map_ / map_.sum(), atol=1e-6)
    assert [target.phrase for target in targets] == [target.phrase for target in answer.targets]
    assert len(targets) == 2
    for target in targets:
        assert len(target.scales) == model.config.num_scales
        for maps in target.scales:
            assert maps.shape == (model.config.tokens_per_scale + 1, 30, 40)
            assert np.allclose(maps.sum(axis=(1, 2)), 1, atol=1e-4)
            assert maps.min() >= 0
            assert not np.allclose(maps[0], maps[1])
    attention_sheet(answer, targets, tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.width > 300
    with pytest.raises(ValueError, match="expected an answer with a mask"):
        attention_sheet(answer, [], tmp_path / "none.png")
