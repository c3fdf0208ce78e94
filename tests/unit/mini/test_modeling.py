"""pixellm-mini: its classifier, class prompts, losses, configuration, and masks of what targets mean."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pixellm.mini import losses
from pixellm.mini.candidates import REGION
from pixellm.mini.class_prompts import ClassPrompts, centred, word_directions
from pixellm.mini.configuration import MiniVisionConfig
from pixellm.mini.vision import ClassifyingEncoder, DenseClassifier
from tests.support import tiny


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce_of(logits, target):
    p = sigmoid(logits)
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


def encoder_of(backbone: str = "resnet18", vocabulary=("dog", "cat", "table")) -> ClassifyingEncoder:
    torch.manual_seed(0)
    config = MiniVisionConfig(vocabulary, image_size=96, backbone=backbone, reductions=(32, 16, 8), hidden_size=16)
    return ClassifyingEncoder(config).eval()


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18", "convnext_atto"])
@torch.no_grad()
def test_encoder_scores_the_vocabulary(backbone):
    features = encoder_of(backbone)(torch.randn(2, 3, 96, 96), torch.tensor([[64, 96], [64, 10]]))
    assert [tuple(s.shape) for s in features.scales] == [(2, 16, 3, 3), (2, 16, 6, 6), (2, 16, 12, 12)]
    assert features.class_logits.shape == (2, 3, 12, 12)
    assert features.presence_logits.shape == (2, 3)


def test_batch_statistics_stay_as_pretrained():
    encoder = encoder_of().train()
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder(torch.randn(2, 3, 64, 64), torch.tensor([[64, 64], [64, 64]]))
    assert before
    for name, buffer in encoder.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_classifier_needs_a_pyramid():
    with pytest.raises(ValueError, match="expected a timm backbone with a feature pyramid"):
        MiniVisionConfig(("dog",), image_size=64, hidden_size=0)


@torch.no_grad()
def test_presence_by_hand():
    """Evidence of all positions that are not padding, as logits that are summed, and the highest score of the maps."""
    classifier = DenseClassifier(4, 8, 3)
    deep, fine = torch.randn(1, 4, 2, 2), torch.randn(1, 8, 4, 4)
    valid = torch.tensor([[[True, True], [False, False]]])
    logits, presence = classifier(deep, fine, valid)
    evidence = classifier.presence(deep)[0, :, 0].exp().sum(dim=1).log()
    torch.testing.assert_close(presence[0], evidence + classifier.peak_gain * logits[0].amax(dim=(1, 2)))


@torch.no_grad()
def test_words_are_mean_embeddings():
    prompts = ClassPrompts(tiny.timm_config(vocabulary_ids=[[[1], [7]], [[2, 3]], [[4]], [[5]], [[6]], [[8]]]))
    embedding = nn.Embedding(10, 32)
    rows = embedding.weight
    own = torch.stack([rows[1], (rows[2] + rows[3]) / 2, rows[4], rows[5], rows[6]])
    torch.testing.assert_close(prompts.words(embedding), own)
    torch.testing.assert_close(centred(own), own - own.mean(dim=0))
    directions = word_directions(own)
    torch.testing.assert_close(directions.pow(2).mean(dim=1), torch.ones(5))
    torch.testing.assert_close(nn.functional.cosine_similarity(directions, centred(own)), torch.ones(5))


@torch.no_grad()
def test_word_maps_by_hand():
    """Each position gets the words of its categories, by their probabilities squared."""
    prompts = ClassPrompts(tiny.timm_config(vocabulary_ids=[[[1]], [[2]], [[3]], [[4]], [[5]]]))
    words = centred(torch.randn(5, 32))
    logits = torch.full((1, 5, 8, 8), -100.0)
    logits[0, 1, 2, 6] = 100.0  # one cell of 8 × 8 is the second name: it must not drown in its quarter
    logits[0, 4, 7, 0] = 0.0  # and one is half the last name
    map_ = prompts.to_map(logits, words, 4)
    assert map_.shape == (1, 32, 4, 4)
    torch.testing.assert_close(map_[0, :, 1, 3], prompts.to_pixels(words[1]) / 4)
    torch.testing.assert_close(map_[0, :, 3, 0], prompts.to_pixels(words[4]) / 16)
    assert map_[0, :, 0].abs().max() < 1e-6


@torch.no_grad()
def test_named_prompts_are_linear_in_the_shares():
    prompts = ClassPrompts(tiny.timm_config())
    words = torch.randn(5, 32)
    single = prompts.prompts(torch.eye(5), words)
    assert single.shape == (5, 3, 32)
    shares = torch.rand(2, 5)
    torch.testing.assert_close(prompts.prompts(shares, words), torch.einsum("tv,vsc->tsc", shares, single))


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_peak_share_out_of_range(share):
    with pytest.raises(ValueError, match="peak_share: expected a share > 0"):
        tiny.timm_config(peak_share=share)


@pytest.mark.parametrize("count", [-1, 257, "4", 2.0])
def test_number_of_candidates_out_of_range(count):
    with pytest.raises(ValueError, match="num_candidates: expected 0 to 256, got "):
        tiny.timm_config(num_candidates=count)


@pytest.mark.parametrize("field", [{"num_tags": 48}, {"class_prior": True}])
def test_models_with_tags_are_refused(field):
    with pytest.raises(ValueError, match="got one of an earlier pixellm that reads tags"):
        tiny.timm_config(**field)


def test_class_prompts_need_ids_for_every_name():
    with pytest.raises(ValueError, match="5 categories, got 1"):
        ClassPrompts(tiny.timm_config(vocabulary_ids=[[[1]]]))


def test_semantic_brute_force():
    rng = np.random.default_rng(2)
    logits, target = rng.normal(size=(2, 3, 4, 5)), rng.random((2, 3, 4, 5)) * (rng.random((2, 3, 1, 1)) > 0.5)
    weight = rng.random((2, 3, 4, 5)) > 0.3
    target = target * weight
    bce = (bce_of(logits, target) * weight).mean(axis=(2, 3)).sum(axis=1).mean()
    dices = []
    for b in range(2):
        for v in range(3):
            if target[b, v].sum() > 0.5:
                p = sigmoid(logits[b, v]) * weight[b, v]
                dices.append(1 - (2 * (p * target[b, v]).sum() + 1) / (p.sum() + target[b, v].sum() + 1))
    assert 0 < len(dices) < 6
    expected = bce + sum(dices) / len(dices)
    got = losses.semantic_loss(*(torch.from_numpy(x) for x in (logits, target, weight)))
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_semantic_loss_ignores_what_is_unknown():
    torch.manual_seed(0)
    target = (torch.rand(2, 3, 4, 4) > 0.5).float()
    weight = torch.rand(2, 3, 4, 4) > 0.3
    target = target * weight
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = losses.semantic_loss(logits, target, weight)
    loss.backward()
    assert (logits.grad[~weight] == 0).all()
    assert (logits.grad[weight] != 0).all()
    changed = torch.where(weight, logits.detach(), torch.randn(2, 3, 4, 4) * 9)
    torch.testing.assert_close(losses.semantic_loss(changed, target, weight), loss.detach())


def test_semantic_loss_without_anything_present():
    logits, nothing = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    known = torch.ones(1, 2, 3, 3, dtype=torch.bool)
    assert float(losses.semantic_loss(logits, nothing, known)) == pytest.approx(2 * math.log(2))
    assert float(losses.semantic_loss(logits, nothing, ~known)) == 0


def test_presence_loss_by_hand():
    """Known to be there where any cell shows it, known to be absent where every cell of the image is known."""
    logits = torch.tensor([[0.5, -1.0, 2.0, 3.0]])
    target, weight = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    valid = torch.tensor([[[True, True], [False, False]]])
    target[0, 0, 0, 0], weight[0, 0] = 0.1, True  # there
    weight[0, 1, 0] = True  # absent: nothing is known of the padding
    weight[0, 2, 0, 0] = True  # half known
    expected = math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-1.0))
    assert float(losses.presence_loss(logits, target, weight, valid)) == pytest.approx(expected)
    two = [torch.cat([x, x]) for x in (logits, target, weight, valid)]
    assert float(losses.presence_loss(*two)) == pytest.approx(expected)


def see(model, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of images of two sizes, 0 in the padding."""
    hw = torch.tensor([[64, 40], [48, 64]])[:count]
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))[:count].to(model.dtype)
    for image, (height, width) in zip(pixels, hw.tolist(), strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
    return pixels, hw


@torch.no_grad()
def test_detector_sees_each_image_of_a_batch_as_alone(detector_model):
    """Detections, presence, and masks of categories with and without detections."""
    pixels, hw = see(detector_model)
    classes, index = torch.tensor([4, 1, 0, 3]), torch.tensor([1, 0, 0, 1])
    together = detector_model.encode_images(pixels, hw)
    masks = detector_model.decode_classes(together, classes, index)
    assert masks.shape[1:] == (32, 32)
    assert together.objects.detections.valid.any(dim=1).all()
    for row in range(2):
        alone = detector_model.encode_images(pixels[row : row + 1], hw[row : row + 1])
        torch.testing.assert_close(alone.presence_logits[0], together.presence_logits[row], rtol=1e-4, atol=1e-4)
        for got, wanted in zip(together.objects.detections.image(row), alone.objects.detections.image(0), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)
        own = detector_model.decode_classes(alone, classes[index == row], torch.zeros(2, dtype=torch.long))
        torch.testing.assert_close(own, masks[index == row], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_detector_in_half_precision():
    model = tiny.build(tiny.detector_config()).bfloat16()
    images = model.encode_images(*see(model))
    detections = images.objects.detections
    assert (detections.boxes.dtype, detections.scores.dtype) == (torch.float32, torch.float32)
    assert images.presence_logits.dtype == torch.bfloat16
    masks = model.decode_classes(images, torch.tensor([4, 1]), torch.tensor([0, 1]))
    assert masks.dtype == torch.bfloat16
    assert masks.isfinite().all()


@torch.no_grad()
def test_detected_categories_get_other_masks_than_the_rest(detector_model):
    """Without detections the masks are the pixel decoder's, enlarged; with them those of the categories change."""
    images = detector_model.encode_images(*see(detector_model, 1))
    classes, index = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.long)
    images.objects.detections.classes.fill_(tiny.DETECTED.index("dog"))
    dog, cat = detector_model.decode_classes(images, classes, index)
    images.objects.detections.scores.zero_()
    plain_dog, plain_cat = detector_model.decode_classes(images, classes, index)
    torch.testing.assert_close(cat, plain_cat)
    assert not torch.allclose(dog, plain_dog)


def test_detector_knows_only_names_of_the_vocabulary():
    with pytest.raises(ValueError, match=r"detector_classes: expected categories of the vocabulary, got \['unicorn'\]"):
        tiny.timm_config(("dog", "unicorn"))


def decode_meant(model, images, rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks and presence of targets that mean the candidates in `rows` of the first image, whatever the states are."""
    logits = torch.full((len(rows), model.config.num_candidates), -20.0)
    for target, candidates in enumerate(rows):
        logits[target, candidates] = 20.0
    model.point = lambda states, tokens: logits
    states = torch.zeros(len(rows) * len(model.config.codebook_ids), model.config.text_config.hidden_size)
    index = torch.zeros(len(rows), dtype=torch.long)
    masks = model.decode_masks(images, states, index)
    return masks, model.presence_scores(images, states, index, masks)


@pytest.fixture
def two_dogs():
    """A model, and images of which it sees two dogs, at the left and at the right, and a region of a category."""
    model = tiny.build(tiny.detector_config())
    model.selection.bias.data.fill_(-1e3)  # nothing else
    for parameter in model.codebook.project[-1].parameters():
        parameter.data.zero_()
    images = model.encode_images(*see(model, 1))
    found = images.objects.detections
    dog = tiny.DETECTED.index("dog")
    for field in (found.boxes, found.scores, found.classes):
        field.zero_()
    found.boxes[0, :2] = torch.tensor([[2.0, 4.0, 14.0, 40.0], [24.0, 4.0, 38.0, 40.0]])
    found.scores[0, :2], found.classes[0, :2] = torch.tensor([0.9, 0.8]), dog
    column, region = tiny.VOCABULARY.index("dog"), tiny.VOCABULARY.index("table")
    candidates = images.candidates
    candidates.classes[0, :3] = torch.tensor([column, column, region])
    candidates.objects[0, :3] = torch.tensor([0, 1, REGION])
    candidates.valid[0] = torch.arange(model.config.num_candidates) < 3
    return model, images


@torch.no_grad()
def test_a_target_covers_the_candidates_that_it_means(two_dogs):
    """One dog, both, and the region, each inside its place; both together are the category's mask."""
    model, images = two_dogs
    (left, right, both, table), _ = decode_meant(model, images, [[0], [1], [0, 1], [2]])
    side = left.shape[-1]
    middle = 19 * side // 64
    assert left[:, middle + 1 :].max() < left[:, :middle].max()
    assert right[:, : middle - 1].max() < right[:, middle:].max()
    whole = model.decode_classes(images, torch.tensor([tiny.VOCABULARY.index("dog")]), torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(both, whole[0], rtol=1e-3, atol=1e-3)
    region = model.decode_classes(
        images, torch.tensor([tiny.VOCABULARY.index("table")]), torch.zeros(1, dtype=torch.long)
    )
    torch.testing.assert_close(table, region[0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_detections_that_were_left_out_belong_to_their_category(two_dogs):
    """Of two dogs only one is a candidate: who means it means both. Who means one of two candidates does not."""
    model, images = two_dogs
    images.candidates.valid[0, 1] = False
    (one,), _ = decode_meant(model, images, [[0]])
    images.candidates.valid[0, 1] = True
    (left, both), _ = decode_meant(model, images, [[0], [0, 1]])
    torch.testing.assert_close(one, both, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(left, both)


@torch.no_grad()
def test_presence_is_that_of_the_surest_candidate(two_dogs):
    """A target that means no candidate is as present as its likeliest pixel."""
    model, images = two_dogs
    masks, presence = decode_meant(model, images, [[0, 2], []])
    known = images.presence_logits[0].sigmoid()
    expected = max(known[tiny.VOCABULARY.index("dog")], known[tiny.VOCABULARY.index("table")])
    torch.testing.assert_close(presence, torch.stack([expected, masks[1].max().sigmoid()]))
