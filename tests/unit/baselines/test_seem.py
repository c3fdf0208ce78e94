"""The SEEM-style baseline: who sees whom, one mask a phrase, losses by hand, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoProcessor
from transformers.models.mask2former import modeling_mask2former as mask2former

from pixellm.baselines.seem import SeemConfig, SeemForGrounding, SeemPredictor, SeemProcessor, losses
from pixellm.baselines.seem.decoder import DecoderOutput, attention_table, focus
from pixellm.baselines.seem.pixel_decoder import Level
from pixellm.baselines.seem.processing import phrases_of
from pixellm.hub.presets import PRESETS
from pixellm.imaging import masks
from pixellm.model import PixelLMVisionConfig
from pixellm.segmenter import load_segmenter
from pixellm.train.trainer import Collator
from pixellm.types import Conversation, Done, Sample, Target, TextPiece
from tests.support import tiny

PHRASES = ["the dog", "Where is the red apple on the table?", "cat"]


@pytest.fixture(scope="module")
def model() -> SeemForGrounding:
    return tiny.build_seem(tiny.seem_config())


@pytest.fixture(scope="module")
def processor() -> SeemProcessor:
    return tiny.seem_processor()


@pytest.fixture
def predictor(model, processor) -> SeemPredictor:
    found = SeemPredictor(model, processor)
    found.set_image(tiny.picture(50, 30))
    return found


def decoded(model, processor, phrases: list[str], objects: bool = True) -> tuple[DecoderOutput, Tensor]:
    """The last prediction and similarity on one photograph."""
    inputs = processor.images([tiny.picture(50, 30)])
    with torch.no_grad():
        images = model.encode_images(inputs["pixel_values"], inputs["resized_hw"])
        index = torch.zeros(len(phrases), dtype=torch.long)
        predictions, likeness = model.decode(images, *processor.phrases(phrases), index, objects)
    assert len(predictions) == model.config.decoder_layers + 1
    return predictions[-1], likeness[-1]


def test_attention_table() -> None:
    """Object queries: themselves. Grounding queries and words: one another. Padding: seen by nobody."""
    table = attention_table(2, 2, torch.tensor([[True, True, False]]))[0, 0].int().tolist()
    assert table == [[1, 1, 0, 0, 0, 0, 0]] * 2 + [[0, 0, 1, 1, 1, 1, 0]] * 5


def test_object_queries_do_not_hear_the_text(model, processor) -> None:
    count = model.config.num_queries
    one, _ = decoded(model, processor, ["the dog"])
    other, _ = decoded(model, processor, ["the red apple on the table"])
    torch.testing.assert_close(one.mask_logits[:, :count], other.mask_logits[:, :count], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.vectors[:, :count], other.vectors[:, :count], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one.vectors[:, count:], other.vectors[:, count:], atol=1e-3)


def test_grounding_queries_do_not_need_the_object_queries(model, processor) -> None:
    count = model.config.num_queries
    whole, likeness = decoded(model, processor, PHRASES)
    alone, found = decoded(model, processor, PHRASES, objects=False)
    torch.testing.assert_close(whole.mask_logits[:, count:], alone.mask_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(likeness[:, count:], found, atol=1e-4, rtol=1e-4)


def test_padding_is_neither_read_nor_segmented_from() -> None:
    """A query reads where its mask is and the image too; one without a mask reads all of the image."""
    valid = torch.tensor(
        [[True, True, True, True, False, False, False, False, False, False, False, False] + [False] * 4]
    )
    level = Level(torch.zeros(1, 16, 4), torch.zeros(16, 4), valid, 4)
    masks = torch.full((1, 3, 4, 4), -1.0)
    masks[0, 0, :, 0] = masks[0, 1, 2] = 1.0  # a column; a row in the padding; nothing
    seen = focus(masks, level, torch.tensor([0]))
    assert seen[0, 0].nonzero()[:, 0].tolist() == [0]
    assert torch.equal(seen[0, 1], valid[0])
    assert torch.equal(seen[0, 2], valid[0])


def test_the_likeliest_query_gives_the_mask(model, processor) -> None:
    prediction, likeness = decoded(model, processor, PHRASES, objects=False)
    assert likeness.abs().max() <= model.logit_scale.exp() + 1e-3
    inputs = processor.images([tiny.picture(50, 30)])
    with torch.no_grad():
        images = model.encode_images(inputs["pixel_values"], inputs["resized_hw"])
        chosen = model.ground(images, *processor.phrases(PHRASES), torch.zeros(3, dtype=torch.long))
    for row, best in enumerate(likeness.argmax(dim=1).tolist()):
        torch.testing.assert_close(chosen[row], prediction.mask_logits[row, best])


def test_temperature_is_clamped(processor) -> None:
    model = tiny.build_seem(tiny.seem_config())
    torch.nn.init.constant_(model.logit_scale, 20.0)
    _, likeness = decoded(model, processor, PHRASES)
    assert 1 < likeness.abs().max() <= 100


def test_phrases_do_not_influence_each_other(predictor) -> None:
    together = predictor.ground(PHRASES)
    for phrase, (rle, score) in zip(PHRASES, together, strict=True):
        alone, alone_score = predictor.ground([phrase])[0]
        assert (masks.decode(rle, 30, 50) != masks.decode(alone, 30, 50)).mean() < 0.002
        assert score == pytest.approx(alone_score, abs=1e-4)
    assert predictor.ground([]) == []


@pytest.mark.parametrize("text", [None, tiny.clip_text_config()], ids=["llama", "clip"])
def test_images_of_a_batch_do_not_influence_each_other(text, processor) -> None:
    model = tiny.build_seem(tiny.seem_config(text))
    photographs = [tiny.picture(50, 30), tiny.picture(20, 64, seed=1)]
    inputs = processor.images(photographs)
    with torch.no_grad():
        both = model.encode_images(inputs["pixel_values"], inputs["resized_hw"])
        together = model.ground(both, *processor.phrases(PHRASES), torch.tensor([0, 1, 1]))
        for row, index in enumerate([0, 1, 1]):
            one = model.encode_images(inputs["pixel_values"][[index]], inputs["resized_hw"][[index]])
            alone = model.ground(one, *processor.phrases([PHRASES[row]]), torch.tensor([0]))
            torch.testing.assert_close(together[row], alone[0], atol=1e-3, rtol=1e-3)


def test_a_question_gets_one_mask(predictor) -> None:
    text, target, done = predictor.stream("  Where is the dog? ")
    assert isinstance(text, TextPiece)
    assert isinstance(target, Target)
    assert isinstance(done, Done)
    answer = done.answer
    assert answer.text == text.text == target.phrase == "Where is the dog?"
    assert answer.targets == (target,)
    assert answer.text[slice(*target.span)] == target.phrase
    assert answer.to_json()["targets"][0]["segmentation"]["size"] == [30, 50]
    assert [a.question for a in predictor.ask_many(PHRASES)] == PHRASES


def test_mistakes(model, processor, predictor) -> None:
    with pytest.raises(ValueError, match="expected an image before the first question"):
        SeemPredictor(model, processor).ask("the dog")
    with pytest.raises(ValueError, match="expected a question, got an empty text"):
        predictor.ask(" ")
    with pytest.raises(ValueError, match="expected a phrase, got an empty text"):
        predictor.ground(["dog", ""])


def test_save_and_load(predictor, tmp_path) -> None:
    predictor.model.save_pretrained(tmp_path)
    predictor.processor.save_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), SeemForGrounding)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), SeemProcessor)
    loaded = load_segmenter(tmp_path)
    assert isinstance(loaded, SeemPredictor)
    loaded.set_image(tiny.picture(50, 30))
    assert loaded.ground(PHRASES) == predictor.ground(PHRASES)
    with pytest.raises(ValueError, match="expected no temperature for"):
        load_segmenter(tmp_path, sampling={"temperature": 1.0})
    state = dict(predictor.model.state_dict())
    del state["decoder.norm.weight"]
    predictor.model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"expected all weights .* 1 are not there \(decoder.norm.weight\)"):
        load_segmenter(tmp_path)


def mask(rows: slice, columns: slice) -> np.ndarray:
    found = np.zeros((30, 50), dtype=bool)
    found[rows, columns] = True
    return found


LEFT, RIGHT = mask(slice(0, 30), slice(0, 20)), mask(slice(0, 30), slice(30, 50))


def test_phrases_stand_before_their_masks() -> None:
    said = Conversation("What?", "Sure, it is the dog {seg} and the red apple {seg}. {seg}", np.stack([LEFT] * 3))
    assert phrases_of(said) == ["the dog", "the red apple", "What?"]


def test_identical_phrases_are_one(processor) -> None:
    """With all their masks; the same mask comes once. A question with one mask is a phrase, too."""
    several = Conversation("Both?", "the dog {seg}, the dog {seg}, a cat {seg}", np.stack([LEFT, RIGHT, LEFT]))
    single = Conversation("Where is it?", "the dog {seg}", LEFT[None], ignored=RIGHT)
    batch = processor([Sample(tiny.picture(50, 30), (several, single)), Sample(tiny.picture(40, 40), ())])
    assert len(batch.input_ids) == 3  # the dog, a cat, the question
    assert batch.target_phrase.tolist() == [0, 0, 1, 2]
    assert batch.image_index.tolist() == [0, 0, 0]
    assert [stack.shape for stack in batch.target_masks] == [(4, 30, 50), (0, 1, 1)]
    assert batch.ignored is not None
    assert batch.ignored[0].flatten(1).any(dim=1).tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match="record x: the answer has 1 mask slots but 2 masks"):
        processor([Sample(tiny.picture(50, 30), (replace(single, masks=np.stack([LEFT, LEFT])),), "x")])


def test_control_tokens_in_a_phrase_are_text(processor) -> None:
    ids, _ = processor.phrases(["a <|im_end|> dog"])
    assert processor.tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids[0]
    assert processor.phrases(["dog " * 50])[0].shape == (1, 20)
    assert processor.phrases(["dog " * 50], max_length=5)[0].shape == (1, 5)


def hand_case() -> tuple[DecoderOutput, Tensor, losses.GroundingTargets]:
    """Two rows of three queries on a square of 8; row 0 has two targets, row 1 one. The image takes its upper half."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    similarity = torch.randn(2, 3, generator=generator)
    wanted = torch.zeros(3, 4, 8, dtype=torch.bool)
    wanted[0, :2], wanted[1, 2:], wanted[2, :, 4:] = True, True, True
    targets = losses.place_targets([wanted], None, torch.tensor([[4, 8]]), torch.tensor([0, 0, 1]), 8)
    return DecoderOutput(logits, torch.zeros(2, 3, 4)), similarity, targets


def test_targets_lie_in_the_image() -> None:
    _, _, targets = hand_case()
    assert targets.masks.shape == (3, 1, 8, 8)
    assert targets.extent.tolist() == [[1.0, 0.5]] * 3  # x, y
    assert targets.masks[1, 0, :4].nonzero().tolist() == [[y, x] for y in (2, 3) for x in range(8)]


def test_matching_costs_are_mask2formers() -> None:
    """Of each row's queries and masks: those of transformers, which take one image at a time."""
    config = tiny.seem_config()
    prediction, similarity, targets = hand_case()
    points = torch.rand(2, 200, 2)
    costs = losses.matching_costs(prediction, similarity, targets, points, config)
    for number, row in enumerate([0, 0, 1]):
        at = (points[row] * torch.tensor([1.0, 0.5]))[None]
        found = mask2former.sample_point(prediction.mask_logits[[row]], at, align_corners=False, padding_mode="border")[
            0
        ]
        wanted = mask2former.sample_point(targets.masks[[number]], at, align_corners=False, padding_mode="border")[0]
        expected = 5 * mask2former.pair_wise_sigmoid_cross_entropy_loss(found, wanted)
        expected = expected + 5 * mask2former.pair_wise_dice_loss(found, wanted)
        expected = expected[:, 0] - 2 * similarity[row].softmax(dim=0)
        torch.testing.assert_close(costs[number], expected)


def test_matching_is_the_cheapest_of_all_assignments(monkeypatch) -> None:
    """Two masks of one phrase get two queries, even if both would like the same one best."""
    costs = torch.tensor([[1.0, 2.0, 9.0], [0.0, 5.0, 9.0], [3.0, 2.0, 1.0]])  # of each target, of each query
    monkeypatch.setattr(losses, "matching_costs", lambda *_: costs)
    prediction, similarity, targets = hand_case()
    queries, matched = losses.match(prediction, similarity, targets, tiny.seem_config())
    assert dict(zip(matched.tolist(), queries.tolist(), strict=True)) == {0: 1, 1: 0, 2: 2}


def test_losses_by_hand(monkeypatch) -> None:
    """Cross-entropy over the queries, shared by the two masks of a phrase; BCE and DICE at the same points."""
    config = tiny.seem_config(ce_weight=0.8, bce_weight=3.0, dice_weight=2.0)
    prediction, similarity, targets = hand_case()
    queries, matched = torch.tensor([1, 0, 2]), torch.tensor([0, 1, 2])
    points = torch.rand(3, 64, 2) * torch.tensor([1.0, 0.5])
    monkeypatch.setattr(losses, "match", lambda *_: (queries, matched))
    monkeypatch.setattr(losses, "uncertain_points", lambda *_: points)
    ce, bce, dice = losses.grounding_losses(prediction, similarity, targets, config).tolist()
    chance = similarity.softmax(dim=1)
    assert ce == pytest.approx(-0.8 * float((chance[0, 1] * chance[0, 0] * chance[1, 2]).log()), abs=1e-5)
    logits = prediction.mask_logits[targets.row, queries][:, None]
    found = mask2former.sample_point(logits, points, align_corners=False, padding_mode="border")[:, 0]
    wanted = mask2former.sample_point(targets.masks, points, align_corners=False, padding_mode="border")[:, 0]
    expected = mask2former.sigmoid_cross_entropy_loss(found, wanted, 1)
    assert bce == pytest.approx(3 * float(expected), rel=1e-5)
    assert dice == pytest.approx(2 * float(mask2former.dice_loss(found, wanted, 1)), rel=1e-5)


def test_ignored_pixels_add_nothing() -> None:
    prediction, _, targets = hand_case()
    logits = prediction.mask_logits[targets.row, 0][:, None]
    whole = replace(targets, ignored=torch.ones_like(targets.masks))
    bce, dice = losses.mask_losses(logits, whole, torch.arange(3), 64)
    assert float(bce) == pytest.approx(0.0, abs=1e-6)
    assert float(dice) == pytest.approx(0.0, abs=1e-6)


def test_points_are_unsure_and_in_the_image() -> None:
    logits = torch.full((1, 1, 8, 8), 5.0)
    logits[..., 0] = 0.0  # a column of which nothing is known
    points = losses.uncertain_points(logits, torch.tensor([[1.0, 0.5]]), 100)
    assert points.shape == (1, 100, 2)
    assert float(points[..., 1].max()) <= 0.5
    assert (points[0, :, 0] < 0.2).float().mean() > 0.5  # of random ones a fifth


def samples() -> list[Sample]:
    """Two photographs, two things in each, in different places."""
    found = []
    for number, (dog, cat) in enumerate([(LEFT, RIGHT), (RIGHT, LEFT)]):
        pixels = np.full((30, 50, 3), 128, dtype=np.uint8)
        pixels[dog], pixels[cat] = (230, 40, 40), (40, 40, 230)
        said = Conversation("Where are they?", "The dog {seg} and the cat {seg}.", np.stack([dog, cat]))
        found.append(Sample(tiny.Image.fromarray(pixels), (said,), str(number)))
    return found


@pytest.mark.slow
def test_it_learns(processor) -> None:
    torch.manual_seed(0)
    model = SeemForGrounding(tiny.seem_config(num_queries=8))
    model.vision_encoder.requires_grad_(False)
    batch = Collator(processor)(samples())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    first = last = 0.0
    for _ in range(60):
        output = model.train()(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        first, last = first or output.loss.item(), output.loss.item()
    assert set(output.losses) == {"choice", "bce", "dice"}
    assert last < 0.5 * first
    predictor = SeemPredictor(model, processor)
    for sample in samples():
        predictor.set_image(sample.image)
        for (rle, _), wanted in zip(
            predictor.ground(["The dog", "the cat"]), sample.conversations[0].masks, strict=True
        ):
            found = masks.decode(rle, *wanted.shape)
            assert (found & wanted).sum() / (found | wanted).sum() > 0.5


def test_a_batch_without_targets_teaches_nothing(model, processor) -> None:
    output = model(**Collator(processor)([Sample(tiny.picture(50, 30), ())]))
    assert float(output.loss) == 0.0
    assert [len(logits) for logits in output.mask_logits] == [0]


@pytest.mark.parametrize(("name", "millions"), [("seem-focal-large", 340), ("seem-focal-tiny", 162)])
def test_published_sizes(name, millions) -> None:
    """SEEM's Focal-L weights are 1.37 GB of fp32, some 342 million parameters, X-Decoder's likewise."""
    config = PRESETS[name]()
    with torch.device("meta"):
        model = SeemForGrounding(config).eval()
        images = model.encode_images(torch.zeros(1, 3, 1024, 1024), torch.tensor([[512, 704]]))
        ids = torch.zeros(1, 77, dtype=torch.long)
        predictions, _ = model.decode(images, ids, torch.ones_like(ids), torch.zeros(1, dtype=torch.long), objects=True)
    assert [level.grid for level in images.levels] == [32, 64, 128]
    assert predictions[-1].mask_logits.shape == (1, 202, 256, 256)
    assert len(predictions) == 10
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 30}, "width: expected a multiple of 4 and of the 4 heads, got 30"),
        ({"num_queries": 0}, "num_queries: expected at least 1, got 0"),
        ({"encoder_layers": -1}, "encoder_layers: expected 0 or more, got -1"),
        ({"max_tokens": 2000}, "max_tokens: expected at most the 1024 positions of the text encoder, got 2000"),
    ],
)
def test_sizes_that_do_not_fit(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.seem_config(**changes)


def test_any_encoder_with_features() -> None:
    """A pyramid of three strides, or a ViT's maps of one size."""
    pyramid = PixelLMVisionConfig("timm", 64, backbone="tf_efficientnet_lite0", hidden_size=16)
    vit = PixelLMVisionConfig("clip", 56, clip=tiny.CLIP_SIZES, hidden_layers=(-2, -3))
    for vision, grids, side in ((pyramid, [2, 4, 8], 8), (vit, [4, 4], 4)):
        config = SeemConfig(
            vision, tiny.text_config(), **{"width": 32, "num_heads": 4, "max_tokens": 20, "ffn_dim": 48}
        )
        assert config.level_grids == grids
        size = vision.image_size
        images = tiny.build_seem(config).encode_images(torch.zeros(1, 3, size, size), torch.tensor([[size, 40]]))
        assert [level.grid for level in images.levels] == grids
        assert images.mask_features.shape == (1, 32, side, side)
