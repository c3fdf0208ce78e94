"""ComfyUI's nodes, called as ComfyUI calls it: through the class mappings, with tensors."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import to_tensor

from pixellm.imaging import masks
from pixellm.integrations import comfyui
from tests.support.colours import ColourSegmenter, flag, mask_of
from tests.support.stub_server import sent_image, stub_server


@pytest.fixture
def run(monkeypatch):
    """Run the node on images (B, H, W, C) with the defaults of its inputs."""
    return runner("PixelLMAsk", monkeypatch)


@pytest.fixture
def refine(monkeypatch):
    return runner("PixelLMRefine", monkeypatch)


def runner(name, monkeypatch):
    monkeypatch.setattr(comfyui, "_segmenter", lambda *_: ColourSegmenter())
    node = comfyui.NODE_CLASS_MAPPINGS[name]
    inputs = node.INPUT_TYPES()["required"]
    defaults = {name: options[0]["default"] for name, (_, *options) in inputs.items() if options}

    def call(image, **given):
        outputs = getattr(node(), node.FUNCTION)(image=image, **(defaults | {"device": "cpu"} | given))
        assert len(outputs) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        return outputs

    return call


def test_the_file_of_the_page_has_the_nodes(tmp_path):
    """ComfyUI runs a file of custom_nodes as a module with a name of its own, whatever the file is called."""
    page = (Path(__file__).parents[3] / "docs/integrations/comfyui.md").read_text(encoding="utf-8")
    file = tmp_path / "pixellm.py"
    file.write_text(page.split("```python\n")[1].split("```")[0])
    spec = importlib.util.spec_from_file_location(str(file.with_suffix("")), file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS == comfyui.NODE_CLASS_MAPPINGS
    for name, node in module.NODE_CLASS_MAPPINGS.items():
        assert callable(getattr(node, node.FUNCTION))
        assert all(
            isinstance(options[0], str | list) for kind in node.INPUT_TYPES().values() for options in kind.values()
        )
        assert name in module.NODE_DISPLAY_NAME_MAPPINGS


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


def test_a_mask_is_corrected_by_points_and_a_box(refine):
    red, green = (torch.from_numpy(mask_of(flag(), colour)).float()[None] for colour in ("red", "green"))
    (mask,) = refine(images(flag()), mask=red, points="10, 20, 1\n\n1 1 0")
    assert (mask.dtype, mask.shape) == (torch.float32, (1, 30, 40))
    assert torch.equal(mask, green)
    (mask,) = refine(images(flag()), mask=red, box="0, 0, 10, 5")
    assert mask.sum() == 50
    (mask,) = refine(images(flag()), points="10, 20, 1")  # from nothing
    assert torch.equal(mask, green)


def test_each_image_of_a_batch_has_its_own_mask(refine):
    upside_down = flag().rotate(180)
    before = torch.zeros(2, 30, 40)
    before[1, 0, 0] = 1
    (mask,) = refine(images(flag(), upside_down), mask=before, points="20, 20, 1")
    first = mask_of(flag(), "green")
    second = (np.asarray(upside_down) == np.asarray(upside_down)[20, 20]).all(axis=2)
    second[0, 0] = True
    assert np.array_equal(mask.numpy(), np.stack([first, second]))
    (mask,) = refine(images(flag(), upside_down), mask=before[:1], points="20, 20, 1")  # one mask for both
    second[0, 0] = (np.asarray(upside_down)[0, 0] == np.asarray(upside_down)[20, 20]).all()
    assert np.array_equal(mask.numpy(), np.stack([first, second]))


@pytest.mark.parametrize(("given", "message"), [({"points": "1, 2"}, "a point x"), ({"box": "a b c d"}, "a box x")])
def test_marks_that_are_no_numbers(refine, given, message):
    with pytest.raises(ValueError, match=message):
        refine(images(flag()), **given)


@pytest.fixture
def stub():
    with stub_server() as running:
        yield running


def save(image, **given):
    node = comfyui.NODE_CLASS_MAPPINGS["PixelLMSaveCorrection"]
    assert node.OUTPUT_NODE
    assert node.INPUT_TYPES()["required"].keys() | node.INPUT_TYPES()["optional"].keys() >= {"image", *given}
    return getattr(node(), node.FUNCTION)(image=image, **given)


def test_an_accepted_mask_is_sent_for_each_image(stub):
    url, answers, seen = stub
    answers += [(200, '{"id": "a"}'), (200, '{"id": "b"}')]
    pictures = [flag(), flag().rotate(180)]
    red = torch.from_numpy(np.stack([mask_of(picture, "red") for picture in pictures])).float() * 0.9
    assert save(images(*pictures), mask=red, phrase="red", server=url, before=torch.zeros(1, 30, 40)) == ("a\nb",)
    assert [path for path, _, _ in seen] == ["/v1/corrections"] * 2
    for picture, (_, _, body) in zip(pictures, seen, strict=True):
        assert sent_image(body).tobytes() == picture.tobytes()
        assert np.array_equal(masks.decode(body["segmentation"], 30, 40), mask_of(picture, "red"))
        assert (body["phrase"], body["tool"], masks.area(body["before"])) == ("red", "comfyui", 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"phrase": " "}, "empty phrase"), ({"mask": torch.ones(1, 31, 40)}, "expected a mask of 30×40")],
)
def test_what_is_not_sent(stub, given, message):
    url, _, seen = stub
    with pytest.raises(ValueError, match=message):
        save(images(flag()), **{"mask": torch.ones(1, 30, 40), "phrase": "red", "server": url} | given)
    assert not seen
