"""ComfyUI's node, called as ComfyUI calls it: through the class mappings, with tensors."""

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import to_tensor

from pixellm.integrations import comfyui
from tests.support.colours import ColourSegmenter, flag, mask_of


@pytest.fixture
def run(monkeypatch):
    """Run the node on images (B, H, W, C) with the defaults of its inputs."""
    monkeypatch.setattr(comfyui, "_segmenter", lambda *_: ColourSegmenter())
    node = comfyui.NODE_CLASS_MAPPINGS["PixelLMAsk"]
    inputs = node.INPUT_TYPES()["required"]
    defaults = {name: options[0]["default"] for name, (_, *options) in inputs.items() if options}

    def call(image, **given):
        outputs = getattr(node(), node.FUNCTION)(image=image, **(defaults | {"device": "cpu"} | given))
        assert len(outputs) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        return outputs

    return call


def images(*pictures):
    return torch.stack([to_tensor(picture).permute(1, 2, 0) for picture in pictures])


def test_text_and_masks(run):
    text, mask, masks = run(images(flag()), prompt="red, the green")
    red, green = mask_of(flag(), "red"), mask_of(flag(), "green")
    assert text == "the red\nthe green"
    assert (mask.dtype, masks.dtype) == (torch.float32, torch.float32)
    assert np.array_equal(mask.numpy(), (red | green)[None])
    assert np.array_equal(masks.numpy(), np.stack([red, green]))


def test_a_batch_has_one_union_for_each_image(run):
    upside_down = flag().rotate(180)
    _, mask, masks = run(images(flag(), upside_down), prompt="Where is red?")
    expected = np.stack([mask_of(flag(), "red"), mask_of(upside_down, "red")])
    assert np.array_equal(mask.numpy(), expected)
    assert np.array_equal(masks.numpy(), expected)


def test_nothing_there_is_one_empty_mask(run):
    text, mask, masks = run(images(flag()), prompt="blue")
    assert text == "Nothing."
    assert mask.shape == masks.shape == (1, 30, 40)
    assert not mask.any()
    assert not masks.any()


def test_min_score(run):
    _, _, masks = run(images(flag()), prompt="red and green", min_score=0.7)
    assert np.array_equal(masks.numpy(), mask_of(flag(), "red")[None])


def test_values_a_little_out_of_range_and_half_precision(run):
    """As upscalers and VAEs give them."""
    image = images(flag())
    _, mask, _ = run((image * 1.001).half() - 0.0001, prompt="red")
    assert np.array_equal(mask[0].numpy(), mask_of(flag(), "red"))


def test_an_empty_prompt(run):
    with pytest.raises(ValueError, match="expected a prompt"):
        run(images(flag()), prompt=" , ")


def test_a_model_is_loaded_once(monkeypatch):
    loaded = []
    monkeypatch.setattr(comfyui, "connect", lambda model, device: loaded.append((model, device)) or ColourSegmenter())
    comfyui._segmenter.cache_clear()
    for model in ("a", "a", "b"):
        comfyui._segmenter(model, "cpu")
    comfyui._segmenter.cache_clear()
    assert loaded == [("a", "cpu"), ("b", "cpu")]
