"""Training of the refiner: cached images, episodes, simulated clicks, and that only the refiner learns."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from pixellm.data.records import AnnotatedImage, Instance
from pixellm.eval.clicks import iou, next_click
from pixellm.mini import refine_stage
from pixellm.mini.losses import MiniLossWeights
from pixellm.mini.refine_cache import CachedImage, cached_image
from pixellm.mini.refine_stage import Episodes, RefineTraining, begin, collate_episodes, simulated, spoiled
from pixellm.mini.refiner import region_inputs
from tests.support import tiny


def rectangle(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture(scope="module")
def model():
    """Return a tiny pixellm-mini with a refiner."""
    return tiny.build(tiny.detector_config(refine_width=32))


@pytest.fixture(scope="module")
def cached(model, tmp_path_factory):
    """Two dogs, a cat, and a bird, which no vocabulary has; a speck is too small."""
    instances = (
        Instance(("dog",), rectangle(4, 4, 24, 30), "dog"),
        Instance(("dog",), rectangle(40, 20, 60, 44), "dog"),
        Instance(("cat",), rectangle(26, 2, 40, 18), "cat"),
        Instance(("bird",), rectangle(26, 30, 38, 46), "bird"),
        Instance(("cat",), rectangle(0, 40, 4, 44), "cat"),
    )
    processor = tiny.tiny_processor(64, 6).image_processor
    image = cached_image(model, processor, AnnotatedImage(tiny.picture(64, 48), instances), random.Random(0))
    path = tmp_path_factory.mktemp("cache") / "00000.safetensors"
    image.save(path)
    return image, path


def test_what_is_cached(cached, model):
    image, _ = cached
    areas = [int(mask.sum()) for mask in image.wanted]
    assert areas == [520, 480, 224, 192, 1000, 240]  # the instances, then the unions of dogs and cats
    vocabulary = model.config.vision_config.vocabulary
    assert {"dog", "cat"} <= set(vocabulary)
    categories = image.first_of[:, 0].tolist()
    assert categories == [0, 0, 1, -1, 0, 1]
    assert image.first_of[4:, 1].tolist() == [-1, -1]  # a detection is no union
    assert len(image.first) == 2 + int((image.first_of[:, 1] >= 0).sum())
    assert [tuple(map_.shape[1:]) for map_ in image.maps[:4]] == [(12, 16), (6, 8), (3, 4), (2, 2)]
    assert np.array_equal(image.pixels.permute(1, 2, 0).numpy(), np.array(tiny.picture(64, 48)))


def test_a_file_gives_the_same(cached):
    image, path = cached
    again = CachedImage.load(path)
    for name in ("pixels", "wanted", "first", "first_of", "marks"):
        assert torch.equal(getattr(again, name), getattr(image, name)), name
    for before, after in zip(image.maps, again.maps, strict=True):
        torch.testing.assert_close(after.float(), before.float(), atol=1e-3, rtol=1e-3)


def test_first_masks_are_those_of_the_model(cached, model):
    """The mask of the dogs is what their category decodes to, at image size."""
    from pixellm.imaging import masks
    from pixellm.imaging.postprocess import binarize

    image, _ = cached
    inputs = tiny.tiny_processor(64, 6).images([tiny.picture(64, 48)])
    with torch.inference_mode():
        encoded = model.encode_images(inputs["pixel_values"], inputs["resized_hw"])
        dog = torch.tensor([model.config.vision_config.vocabulary.index("dog")])
        logits = model.decode_classes(encoded, dog, torch.zeros(1, dtype=torch.long))
    (binary,) = binarize(logits, (48, 64), (48, 64), model.peak_share)
    assert np.array_equal(image.first[0].numpy(), masks.decode(binary.rle, 48, 64))


def test_episodes_are_deterministic_and_differ(cached):
    _, path = cached
    episodes = Episodes([path], 12, seed=3)
    assert len(episodes) == 12
    first, again = episodes[5], episodes[5]
    assert torch.equal(first.mask, again.mask)
    assert torch.equal(first.wanted, again.wanted)
    assert (first.prompts, first.seed) == (again.prompts, again.seed)
    assert len({episodes[index].seed for index in range(12)}) == 12


def test_a_mirrored_episode_is_mirrored_everywhere(cached, monkeypatch):
    image, _ = cached
    rng = random.Random(0)
    monkeypatch.setattr(refine_stage, "ENCODER_DROPOUT", 0.0)
    monkeypatch.setattr(refine_stage, "COLOUR", 0.0)
    rng.random = lambda: 0.1
    mirrored = refine_stage.augmented(image, rng)
    assert torch.equal(mirrored.wanted, image.wanted.flip(-1))
    assert torch.equal(mirrored.first, image.first.flip(-1))
    assert all(torch.equal(a, b.flip(-1)) for a, b in zip(mirrored.maps, image.maps, strict=True))
    difference = (mirrored.pixels.int() - image.pixels.flip(-1).int()).abs()
    assert int(difference.max()) <= 1


def test_earlier_clicks_are_right(cached, monkeypatch):
    image, _ = cached
    monkeypatch.setattr(refine_stage, "EARLIER_RATE", 1.0)
    monkeypatch.setattr(refine_stage, "BOX_RATE", 0.0)
    counted = 0
    for seed in range(10):
        episode = begin(image, random.Random(seed))
        for (x, y), label in zip(episode.prompts.points, episode.prompts.labels, strict=True):
            assert bool(episode.wanted[int(y), int(x)]) == bool(label)
            assert bool(episode.mask[int(y), int(x)]) == bool(label)
            counted += 1
    assert counted >= 10


def test_a_spoiled_mask_is_near_the_wanted_one():
    wanted = rectangle(20, 10, 44, 38)
    found = [iou(spoiled(wanted, random.Random(seed), 1.0), wanted) for seed in range(20)]
    assert 0.3 < np.mean(found) < 0.95
    assert len(set(found)) > 10


def test_simulated_clicks_follow_the_protocol(monkeypatch):
    monkeypatch.setattr(refine_stage, "ANYWHERE_RATE", 0.0)
    monkeypatch.setattr(refine_stage, "STROKE_RATE", 0.0)
    for mask, wanted in (
        (rectangle(0, 0, 10, 10), rectangle(0, 0, 30, 20)),
        (rectangle(0, 0, 30, 20), rectangle(0, 0, 10, 10)),
    ):
        x, y, positive = next_click(mask, wanted)
        found = simulated(mask, wanted, random.Random(0))
        assert (found.points, found.labels) == (((x, y),), (int(positive),))
        assert simulated(wanted, wanted, random.Random(0)) is None


def test_strokes_and_free_clicks_lie_in_the_error(monkeypatch):
    monkeypatch.setattr(refine_stage, "ANYWHERE_RATE", 0.5)
    monkeypatch.setattr(refine_stage, "STROKE_RATE", 0.5)
    mask, wanted = rectangle(0, 0, 10, 10), rectangle(0, 0, 30, 20)
    lengths = set()
    for seed in range(20):
        found = simulated(mask, wanted, random.Random(seed))
        assert set(found.labels) == {1}
        assert all((wanted & ~mask)[int(y), int(x)] for x, y in found.points)
        lengths.add(len(found))
    assert {1} < lengths


def test_only_the_refiner_learns(cached, model):
    """Its loss falls, within a few steps on the same episodes, and nothing else changes."""
    _, path = cached
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = RefineTraining(model.refiner, clicks=2)
    batch = collate_episodes([Episodes([path], 4)[index] for index in range(2)])
    optimizer = torch.optim.AdamW(training.parameters(), 2e-3)
    losses = []
    for _ in range(3):
        output = training(**batch, counts=Counter(images=2), loss_weights=MiniLossWeights(bce=1, dice=1))
        assert set(output.losses) == {"bce", "dice"}
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < losses[0]
    for name, tensor in model.state_dict().items():
        if not name.startswith("refiner."):
            assert torch.equal(tensor, before[name]), name


def test_a_detection_is_prompted_before_any_click(cached, model, monkeypatch):
    """Its marks come first and alone; whoever clicks next knows nothing of them."""
    image, _ = cached
    marks = torch.tensor([[[12.0, 17.0], [4.0, 4.0], [24.0, 30.0]]])
    found = CachedImage(image.pixels, image.maps, image.wanted[:1], image.first[:1], torch.tensor([[-1, 0]]), marks)
    monkeypatch.setattr(refine_stage, "FIRST_RATES", (0, 1, 0, 0))
    monkeypatch.setattr(refine_stage, "EARLIER_RATE", 0)
    monkeypatch.setattr(refine_stage, "DETECTOR_RATE", 1)
    episode = begin(found, random.Random(0))
    assert episode.prompted
    assert episode.prompts.box == (4, 4, 24, 30)
    assert episode.prompts.points[0] == (12, 17)
    mirrored = next(
        one for one in (refine_stage.augmented(found, random.Random(n)) for n in range(9)) if one.marks[0, 0, 0] != 12
    )
    assert mirrored.marks[0].tolist() == [[52, 17], [40, 4], [60, 30]]
    seen = []

    def spy(pixels, maps, mask, prompts, region):
        seen.append(prompts)
        return region_inputs(pixels, maps, mask, prompts, region)

    monkeypatch.setattr(refine_stage, "region_inputs", spy)
    RefineTraining(model.refiner, clicks=2)(
        **collate_episodes([episode]), counts=Counter(images=1), loss_weights=MiniLossWeights()
    )
    assert seen[0] == episode.prompts
    assert seen[1].box is None


def test_a_right_mask_gives_no_loss(cached, model):
    image, _ = cached
    episode = begin(image, random.Random(0))
    right = refine_stage.Episode(image.pixels, image.maps, episode.wanted, episode.wanted, episode.prompts, 0)
    training = RefineTraining(model.refiner, clicks=2)
    batch = collate_episodes([right])
    output = training(**batch, counts=Counter(images=1), loss_weights=MiniLossWeights())
    assert output.loss.item() == 0
    output.loss.backward()
