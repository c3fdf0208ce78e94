"""SAM 3 and Florence-2 behind `Segmenter`, of random weights, and SAM 3 as the second stage."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    PreTrainedTokenizerFast,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
)

from pixellm.baselines.florence2 import Florence2Segmenter
from pixellm.baselines.phrases import NOTHING, PhraseMask, PhraseSegmenter, phrase_of
from pixellm.baselines.sam3 import Sam3Grounder, Sam3Segmenter
from pixellm.baselines.two_stage import NamedObject, TwoStage
from pixellm.hub.systems import weights_of
from pixellm.imaging import masks
from pixellm.segmenter import load_segmenter
from tests.support import tiny

WIDTH, HEIGHT = 60, 40


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


LEFT, RIGHT = box(0, 0, 20, 40), box(40, 0, 60, 40)


class Known(PhraseSegmenter):
    """Answers from a table."""

    def encode(self, image: Image.Image) -> None: ...

    def segment(self, phrase: str) -> list[PhraseMask]:
        table = {"cups": [(RIGHT, 0.9), (LEFT, 0.6)], "jug": [(LEFT, None)]}
        return [PhraseMask(masks.encode(mask), score) for mask, score in table.get(phrase, [])]


@pytest.fixture
def known() -> Known:
    segmenter = Known()
    segmenter.set_image(tiny.picture(WIDTH, HEIGHT))
    return segmenter


def test_a_question_is_a_phrase(known) -> None:
    assert [phrase_of(text) for text in ("Segment the cat.", " please find a dog ", "segment", "Is it?")] == [
        *("the cat", "a dog", "segment", "Is it?")
    ]
    answer = known.ask("Segment cups.")
    assert (answer.text, [t.phrase for t in answer.targets]) == ("cups", ["cups", "cups"])
    assert [t.score for t in answer.targets] == [0.9, 0.6]
    assert np.array_equal(answer.targets[0].mask, RIGHT)
    assert (known.ask("dog").text, known.ask("dog").targets) == (NOTHING, ())
    known.min_score = 0.7
    assert [t.score for t in known.ask("cups").targets] == [0.9]


def test_masks_of_a_phrase_are_united(known) -> None:
    cups, jug, dog = known.ground(["cups", "<jug>", "dog"])
    assert np.array_equal(masks.decode(cups.rle, HEIGHT, WIDTH), LEFT | RIGHT)
    assert (cups.score, jug.score, dog.score, masks.area(dog.rle)) == (0.9, None, 0.0, 0)
    for phrases in (["<>"], ["cups", " "]):
        with pytest.raises(ValueError, match="expected a question, got an empty text"):
            known.ground(phrases)
    with pytest.raises(ValueError, match="expected an image before the first question"):
        Known().ground(["cups"])


def test_the_instance_that_is_pointed_at(known) -> None:
    grounder = Sam3Grounder(known)
    grounder.set_image(tiny.picture(WIDTH, HEIGHT))
    named = [
        NamedObject("cups", (0.1, 0.5)),
        NamedObject("cups"),
        NamedObject("cups", (0.5, 0.5)),  # beside both: the likeliest
        NamedObject("dog", (1.0, 1.0)),
    ]
    found = grounder.ground(named)
    decoded = [masks.decode(mask.rle, HEIGHT, WIDTH) for mask in found]
    for mask, expected in zip(decoded, (LEFT, LEFT | RIGHT, RIGHT, LEFT & RIGHT), strict=True):
        assert np.array_equal(mask, expected)
    assert [mask.score for mask in found] == [0.6, 0.9, 0.9, 0.0]


def words(size: int, *special: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny.tiny_tokenizer(codebook=False)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    tokenizer.add_tokens(list(special), special_tokens=True)
    tokenizer.model_max_length = size
    return tokenizer


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """A random SAM 3 of 56 pixels, in a directory, and the same as the detector of a SAM 3 for video."""
    torch.manual_seed(0)
    attention = {"hidden_size": 32, "num_attention_heads": 2}
    layers = {**attention, "intermediate_size": 32, "num_layers": 1}
    backbone = {**attention, "intermediate_size": 32, "num_hidden_layers": 1, "image_size": 56, "patch_size": 14}
    backbone |= {
        "model_type": "sam3_vit_model",
        "window_size": 2,
        "global_attn_indexes": [0],
        "pretrain_image_size": 28,
    }
    sizes = [[16, 16], [8, 8], [4, 4]]
    text = {**attention, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 400, "projection_dim": 32}
    config = Sam3Config(
        vision_config={"backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": sizes},
        text_config={**text, "model_type": "clip_text_model", "max_position_embeddings": 8, "eos_token_id": 2},
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 6},
        mask_decoder_config=attention,
    )
    model = Sam3Model(config).eval()
    directory, video = tmp_path_factory.mktemp("sam3"), tmp_path_factory.mktemp("sam3_video")
    size = {"height": 56, "width": 56}
    processor = Sam3Processor(Sam3ImageProcessor(size=size, mask_size={"height": 16, "width": 16}), words(8))
    model.save_pretrained(directory)
    for place in (directory, video):
        processor.save_pretrained(place)
    state = {f"detector_model.{name}": value for name, value in load_file(directory / "model.safetensors").items()}
    save_file(state, video / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((directory / "config.json").read_text())
    (video / "config.json").write_text(json.dumps({"model_type": "sam3_video", "detector_config": written}))
    return directory, video


@pytest.fixture(scope="module")
def loaded(sam) -> Sam3Segmenter:
    """The SAM 3 with scores above 0.5, which random weights don't give."""
    segmenter = load_segmenter(sam[0])
    assert isinstance(segmenter, Sam3Segmenter)
    torch.manual_seed(1)
    torch.nn.init.constant_(segmenter.model.detr_decoder.presence_head.layer3.bias, 9.0)
    torch.nn.init.normal_(segmenter.model.dot_product_scoring.query_proj.weight, std=3.0)
    segmenter.set_image(tiny.picture(WIDTH, HEIGHT))
    return segmenter


def test_sam3_has_the_masks_of_its_own_processor(loaded) -> None:
    (found,) = loaded.instances(["red apple"])
    inputs = loaded.processor.image_processor(tiny.picture(WIDTH, HEIGHT), return_tensors="pt")
    texts = loaded.processor.tokenizer("red apple", padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        output = loaded.model(
            pixel_values=inputs["pixel_values"], input_ids=texts["input_ids"], attention_mask=texts["attention_mask"]
        )
    (expected,) = loaded.processor.post_process_instance_segmentation(output, 0.5, 0.5, [(HEIGHT, WIDTH)])
    order = expected["scores"].argsort(descending=True)
    assert 0 < len(found) == len(order)
    for mask, index in zip(found, order, strict=True):
        assert mask.score == pytest.approx(float(expected["scores"][index]), abs=1e-5)
        assert (masks.decode(mask.rle, HEIGHT, WIDTH) == expected["masks"][index].numpy().astype(bool)).mean() > 0.999


def test_phrases_do_not_depend_on_each_other(loaded, caplog) -> None:
    phrases = ["red apple", "the cat on the table, and everything that is near to it"]
    together = loaded.instances(phrases)
    assert "SAM 3 reads 8 tokens, the rest of this is cut off: the cat" in caplog.text
    assert together == [loaded.instances([phrase])[0] for phrase in phrases]


def test_sam3_as_the_second_stage_and_for_video(sam, loaded) -> None:
    """A checkpoint for video is read as its detector; the namer is behind a server, which is not asked here."""
    system = load_segmenter(sam[1], namer="some-vlm@http://127.0.0.1:9/v1")
    assert isinstance(system, TwoStage)
    assert isinstance(system.grounder, Sam3Grounder)
    first, second = load_file(sam[0] / "model.safetensors"), system.grounder.segmenter.model.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())

    class Names:
        def set_image(self, image: Image.Image) -> None: ...

        def names(self, question: str) -> list[NamedObject]:
            return [NamedObject("red apple"), NamedObject("cat", (0.5, 0.5))]

    stages = TwoStage(Names(), Sam3Grounder(loaded))
    stages.set_image(tiny.picture(WIDTH, HEIGHT))
    answer = stages.ask("What is here?")
    assert answer.text == "The red apple and the cat."
    (apples,) = loaded.ground(["red apple"])
    assert (answer.targets[0].rle, answer.targets[0].score) == apples
    assert answer.targets[1].score in [mask.score for mask in loaded.instances(["cat"])[0]]


@pytest.fixture(scope="module")
def florence(tmp_path_factory):
    """A random Florence-2 of 64 pixels, in a directory."""
    torch.manual_seed(0)
    tokens = ("<image>", *(f"<loc_{place}>" for place in range(1000)))
    tokenizer = words(128, *tokens)
    tokenizer.image_token, tokenizer.image_token_id = "<image>", tokenizer.convert_tokens_to_ids("<image>")
    tokenizer.init_kwargs["image_token"] = "<image>"
    vision = Florence2VisionConfig(
        depths=(1, 1), patch_size=(7, 3), patch_stride=(8, 4), patch_padding=(3, 1), patch_prenorm=(False, True),
        embed_dim=(8, 16), num_heads=(2, 2), num_groups=(2, 2), window_size=2, projection_dim=16,
    )  # fmt: skip
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=128, decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=None, **ids,
    )  # fmt: skip
    model = Florence2ForConditionalGeneration(
        Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
    )
    size = {"height": 64, "width": 64}
    images = CLIPImageProcessor(size=size, do_center_crop=False, resample=3)
    images.image_seq_length = 5  # a token for each of 2 × 2 places, and their mean
    rules = {"polygons": {}, "pure_text": {}}
    directory = tmp_path_factory.mktemp("florence2")
    for part in (model, Florence2Processor(images, tokenizer, post_processor_config=rules)):
        part.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def expressions(florence) -> Florence2Segmenter:
    segmenter = load_segmenter(florence)
    assert isinstance(segmenter, Florence2Segmenter)
    return segmenter


POLYGONS = "<loc_0><loc_0><loc_333><loc_0><loc_333><loc_999><loc_0><loc_999>"  # the left third


def test_polygons_that_florence2_writes_are_one_mask(expressions) -> None:
    drawn = masks.decode(expressions.read(f"</s><s>{POLYGONS}</s>", (WIDTH, HEIGHT)), HEIGHT, WIDTH)
    assert (drawn == LEFT).mean() > 0.98
    right = "<loc_667><loc_0><loc_999><loc_0><loc_999><loc_999><loc_667><loc_999>"
    both = masks.decode(expressions.read(f"<s>{POLYGONS}<sep>{right}</s>", (WIDTH, HEIGHT)), HEIGHT, WIDTH)
    assert (both == (LEFT | RIGHT)).mean() > 0.96  # coordinates are rounded down: a row and a column less
    for text in ("</s>", "the cat", "<loc_1><loc_2>", "<loc_1><loc_2><loc_3><loc_4>"):
        assert expressions.read(text, (WIDTH, HEIGHT)) is None


def test_florence2_is_asked_in_its_own_words(expressions, monkeypatch) -> None:
    asked = {}

    def generate(input_ids, **inputs):
        asked["text"] = expressions.processor.tokenizer.decode(input_ids[0])
        asked["pixels"] = tuple(inputs["pixel_values"].shape)
        return expressions.processor.tokenizer(f"<s>{POLYGONS}</s>", return_tensors="pt")["input_ids"]

    expressions.set_image(tiny.picture(WIDTH, HEIGHT))
    with monkeypatch.context() as patched:
        patched.setattr(expressions.model, "generate", generate)
        answer = expressions.ask("Segment the <OCR> cat.")
    assert asked["text"].endswith("<s>Locate the OCR cat in the image with mask</s>")
    assert (asked["text"].count("<image>"), asked["pixels"]) == (5, (1, 3, 64, 64))
    (target,) = answer.targets
    assert (target.phrase, target.score) == ("the <OCR> cat", None)
    assert (target.mask == LEFT).mean() > 0.98


def test_florence2_generates(expressions, monkeypatch) -> None:
    monkeypatch.setattr("pixellm.baselines.florence2.MAX_NEW_TOKENS", 6)
    expressions.set_image(tiny.picture(WIDTH, HEIGHT))
    first, second = expressions.instances(["cat", "cat"])
    assert first == second
    assert all(mask.rle["size"] == [HEIGHT, WIDTH] for mask in first)


def test_what_does_not_fit_is_refused(sam, florence, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"expected no temperature for .*, which segments phrases"):
        load_segmenter(sam[0], sampling={"temperature": 1.0})
    with pytest.raises(ValueError, match="expected no quantize for"):
        load_segmenter(florence, namer="some-vlm@http://127.0.0.1:9/v1", quantize="int8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    with pytest.raises(ValueError, match="expected a system that reads questions, got the SAM 2"):
        load_segmenter(tmp_path)
    assert len({weights_of(sam[0]), weights_of(florence), weights_of(sam[0], "some-vlm@http://127.0.0.1:9/v1")}) == 3
