"""pixellm-mini: its classifier, word mixing, losses and configuration."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pixellm.mini import losses
from pixellm.mini.configuration import MiniVisionConfig
from pixellm.mini.vision import ClassifyingEncoder, DenseClassifier
from pixellm.mini.word_mix import WordMix, centred, word_directions
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
    mix = WordMix(tiny.timm_config(vocabulary_ids=[[[1]], [[2, 3]], [[4]], [[5]], [[6]]]))
    embedding = nn.Embedding(10, 32)
    rows = embedding.weight
    own = torch.stack([rows[1], (rows[2] + rows[3]) / 2, rows[4], rows[5], rows[6]])
    torch.testing.assert_close(mix.words(embedding), own)
    torch.testing.assert_close(centred(own), own - own.mean(dim=0))
    directions = word_directions(own)
    torch.testing.assert_close(directions.pow(2).mean(dim=1), torch.ones(5))
    torch.testing.assert_close(nn.functional.cosine_similarity(directions, centred(own)), torch.ones(5))


@torch.no_grad()
def test_word_mix_by_hand():
    mix = WordMix(tiny.timm_config(vocabulary_ids=[[[1]], [[2]], [[3]], [[4]], [[5]]]))
    nn.init.constant_(mix.token_gain, 3.0)
    words = centred(torch.randn(5, 32))
    logits = torch.full((1, 5, 8, 8), -100.0)
    logits[0, 1, 2, 6] = 100.0  # one cell of 8 × 8 is the second name: it must not drown in its quarter
    logits[0, 4, 7, 0] = 0.0  # and one is half the last name; probabilities count squared
    tokens = mix.to_tokens(logits, words, 2)
    assert tokens.shape == (1, 4, 32)
    torch.testing.assert_close(tokens[0, 1], 3 * words[1])
    torch.testing.assert_close(tokens[0, 2], 3 * words[4] / 4)
    assert tokens[0, [0, 3]].abs().max() < 1e-6
    map_ = mix.to_map(logits, words, 4)
    assert map_.shape == (1, 32, 4, 4)
    torch.testing.assert_close(map_[0, :, 1, 3], mix.to_pixels(words[1]) / 4)
    torch.testing.assert_close(map_[0, :, 3, 0], mix.to_pixels(words[4]) / 16)
    assert map_[0, :, 0].abs().max() < 1e-6


@torch.no_grad()
def test_tags_by_hand():
    """The likeliest names first, each as its word, moved along one direction by how sure it is."""
    mix = WordMix(tiny.timm_config(num_tags=3)).eval()
    nn.init.normal_(mix.tag_score)
    words, presence = torch.randn(5, 32), torch.tensor([[-3.0, 60.0, 1.5, -9.0, -60.0]])
    tags = mix.tags(presence, words)
    expected = [words[1] + mix.tag_score, words[2] + 0.25 * mix.tag_score, words[0] - 0.5 * mix.tag_score]
    torch.testing.assert_close(tags[0], torch.stack(expected))


@torch.no_grad()
def test_mentions_by_hand():
    """A name's last token carries its score, whatever its form; of two names that end together the longer counts."""
    forms = [[[1], [9]], [[2, 3]], [[4]], [[5]], [[6]]]  # the third ends as the second does once it is [3]
    forms[2].append([3])
    mix = WordMix(tiny.timm_config(vocabulary_ids=forms))
    ids = torch.tensor([[3, 2, 3, 7, 1, 9, -200, 2, 0, 3]])
    assert mix.mentions(ids).tolist() == [[2, -1, 1, -1, 0, 0, -1, -1, -1, 2]]
    nn.init.normal_(mix.tag_score)
    added = mix.mention_embeddings(ids, torch.tensor([[3.0, -60.0, 1.5, 0.0, 0.0]]))[0]
    shares = torch.tensor([0.25, 0, -1, 0, 0.5, 0.5, 0, 0, 0, 0.25])
    torch.testing.assert_close(added, shares[:, None] * mix.tag_score)


@torch.no_grad()
def test_scores_are_noisy_in_training_alone():
    """A name's score for the image and its dense ones move by the same amount."""
    mix = WordMix(tiny.timm_config(score_noise=2.0))
    dense, presence = torch.randn(1, 5, 4, 4), torch.randn(1, 5)
    moved_dense, moved = mix.train().add_noise(dense, presence)
    assert not torch.equal(moved, presence)
    torch.testing.assert_close(moved_dense - dense, (moved - presence)[..., None, None].expand_as(dense))
    assert all(map(torch.equal, mix.eval().add_noise(dense, presence), (dense, presence)))


@torch.no_grad()
def test_tags_and_mentions_have_biases_of_their_own():
    """The one moves what is listed, the other what is asked for; the order of tags stays."""
    mix = WordMix(tiny.timm_config(vocabulary_ids=[[[1]], [[2]], [[3]], [[4]], [[5]]])).eval()
    nn.init.normal_(mix.tag_score)
    words, scores = torch.randn(5, 32), torch.tensor([[0.0, 3.0, -3.0, -9.0, -9.0]])
    nn.init.constant_(mix.tag_bias, 1.5)
    nn.init.constant_(mix.mention_bias, -3.0)
    torch.testing.assert_close(
        mix.tags(scores, words)[0],
        torch.stack([words[1], words[0]]) + torch.stack([0.75 * mix.tag_score, 0.25 * mix.tag_score]),
    )
    added = mix.mention_embeddings(torch.tensor([[1, 2, 3]]), scores)[0]
    torch.testing.assert_close(added, torch.tensor([-0.5, 0.0, -1.0])[:, None] * mix.tag_score)


@torch.no_grad()
def test_what_has_another_name_shares_in_none():
    """Scores of 0 for all five names against one of 6: nearly nothing is left for them."""
    mix = WordMix(tiny.timm_config())
    states, words = torch.randn(2, 32), torch.randn(5, 32)
    assert mix.class_scores(states, words).shape == (2, 6)
    none = math.exp(6) / (math.exp(6) + 5)
    torch.testing.assert_close(mix.shares(states, words), torch.full((2, 5), (1 - none) / 5))


def test_names_that_a_text_writes():
    """The name right before each group, or none (5): a name further back does not count."""
    forms = [[[1], [9]], [[2, 3]], [[4]], [[5]], [[6]]]
    mix = WordMix(tiny.timm_config(vocabulary_ids=forms))
    ids = torch.tensor([[7, 2, 3, 20, 21, 9, 20, 21], [1, 7, 20, 21, 20, 21, 7, 7]])
    groups = torch.tensor([[0, 3], [0, 6], [1, 2], [1, 4]])
    assert mix.written(ids, groups).tolist() == [1, 0, 5, 5]


@torch.no_grad()
def test_named_prompts_are_linear_in_the_shares():
    mix = WordMix(tiny.timm_config())
    words = torch.randn(5, 32)
    single = mix.prompts(torch.eye(5), words)
    assert single.shape == (5, 3, 32)
    shares = torch.rand(2, 5)
    torch.testing.assert_close(mix.prompts(shares, words), torch.einsum("tv,vsc->tsc", shares, single))


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_peak_share_out_of_range(share):
    with pytest.raises(ValueError, match="peak_share: expected a share > 0"):
        tiny.timm_config(peak_share=share)


def test_more_tags_than_names():
    with pytest.raises(ValueError, match="num_tags: expected at most the 5 categories of the vocabulary, got 6"):
        tiny.timm_config(num_tags=6)


def test_word_mix_needs_ids_for_every_name():
    with pytest.raises(ValueError, match="5 classes, got 1"):
        WordMix(tiny.timm_config(vocabulary_ids=[[[1]]]))


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
