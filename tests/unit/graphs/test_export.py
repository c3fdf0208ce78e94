"""Exported graphs answer like torch: the same tokens, masks and scores, alone, together, with a history, streamed."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pixellm.backbones.create import NewParts, extend
from pixellm.graphs.check import LOGITS, check
from pixellm.graphs.export import export
from pixellm.model import PixelLMForConditionalGeneration
from pixellm.predictor import Predictor
from pixellm.runtime.manifest import ENCODE, MANIFEST, MASKS, REFINE, WEIGHTS, Manifest
from pixellm.runtime.optimised import optimised_path
from pixellm.runtime.predictor import RuntimePredictor
from pixellm.runtime.processing import RuntimeProcessor
from pixellm.runtime.session import Graphs
from pixellm.types import Answer, Done, Target
from tests.support import tiny
from tests.support.tiny_vlms import tiny_vlm

QUESTIONS = ["What is red?", "Where is the dog, and what is next to it?", "a"]
TOKENS = 24


@pytest.fixture(scope="module", params=["clip", pytest.param("detector", marks=pytest.mark.slow)])
def pair(request, tmp_path_factory) -> tuple[Predictor, RuntimePredictor]:
    """A predictor with torch, and one with the graphs exported from it."""
    if request.param == "clip":
        model, processor = request.getfixturevalue("clip_model"), request.getfixturevalue("clip_processor")
    else:
        model, processor = tiny.build(tiny.detector_config(refine_width=32)), request.getfixturevalue("timm_processor")
    model = talkative(model)
    directory = tmp_path_factory.mktemp("graphs")
    export(model, processor, directory)
    return Predictor(model, processor), load(directory)


def talkative(model: PixelLMForConditionalGeneration) -> PixelLMForConditionalGeneration:
    """Return a copy that writes codebook groups now and then."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.get_output_embeddings().weight[model.config.codebook_ids[0]] *= 4
    return model


def load(directory) -> RuntimePredictor:
    return RuntimePredictor(Graphs(directory, threads=1), RuntimeProcessor.from_directory(directory))


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 10, width // 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def check_equal(expected: Answer, got: Answer) -> None:
    assert (got.text, got.token_ids) == (expected.text, expected.token_ids)
    assert [target.span for target in got.targets] == [target.span for target in expected.targets]
    for ours, theirs in zip(got.targets, expected.targets, strict=True):
        union = (ours.mask | theirs.mask).sum()
        assert union == 0 or (ours.mask & theirs.mask).sum() / union >= 0.999
        assert ours.score == pytest.approx(theirs.score, abs=1e-3)
        assert ours.presence == (None if theirs.presence is None else pytest.approx(theirs.presence, abs=1e-3))


def test_answers(pair):
    torch_, runtime = pair
    targets = 0
    for seed, size in enumerate([(40, 30), (20, 60), (70, 70)]):
        image = picture(seed, *size)
        torch_.set_image(image)
        runtime.set_image(image)
        for question in QUESTIONS:
            expected = torch_.ask(question, max_new_tokens=TOKENS)
            check_equal(expected, runtime.ask(question, max_new_tokens=TOKENS))
            targets += len(expected.targets)
        follow_up = runtime.ask(QUESTIONS[0], history=[expected], max_new_tokens=TOKENS)
        check_equal(torch_.ask(QUESTIONS[0], history=[expected], max_new_tokens=TOKENS), follow_up)
    assert targets  # else nothing was compared


def test_together(pair):
    torch_, runtime = pair
    image = picture(3)
    runtime.set_image(image)
    singles = [runtime.ask(question, max_new_tokens=TOKENS) for question in QUESTIONS]
    for single, joint in zip(singles, runtime.ask_many(QUESTIONS, max_new_tokens=TOKENS), strict=True):
        check_equal(single, joint)
    images = [picture(4, 30, 60), image]
    batch = runtime.ask_batch(images, QUESTIONS[:2], max_new_tokens=TOKENS)
    for expected, got in zip(torch_.ask_batch(images, QUESTIONS[:2], max_new_tokens=TOKENS), batch, strict=True):
        check_equal(expected, got)


def test_rows_join_and_leave(pair):
    _, runtime = pair
    runtime.set_image(picture(5))
    _, encoded = runtime._current()
    alone = [runtime.ask(question, max_new_tokens=TOKENS).token_ids for question in QUESTIONS]
    for joint in (True, False):
        decoding, found = runtime.decoding(joint), {index: [] for index in range(len(QUESTIONS))}
        settings = runtime.settings(max_new_tokens=TOKENS)
        for index, question in enumerate(QUESTIONS):
            decoding.join([index], encoded, [0], [runtime.prompt_ids(question)], settings)
            for step in list(decoding.step()):
                found[step.row].extend(step.ids)
        decoding.join([9], encoded, [0], [runtime.prompt_ids("gone")], settings)
        for step in list(decoding.step()):
            found.setdefault(step.row, []).extend(step.ids)
        decoding.drop([9])
        while decoding:
            for step in decoding.step():
                found[step.row].extend(step.ids)
        assert [tuple(found[index]) for index in range(len(QUESTIONS))] == alone


def test_stream_and_system(pair):
    torch_, runtime = pair
    runtime.set_image(picture(6))
    *events, done = runtime.stream(QUESTIONS[0], max_new_tokens=TOKENS)
    assert isinstance(done, Done)
    check_equal(runtime.ask(QUESTIONS[0], max_new_tokens=TOKENS), done.answer)
    assert len(events) >= len(done.answer.targets)
    other = [one.with_prompt("Be short.", None) for one in (torch_, runtime)]
    for one in other:
        one.set_image(picture(6))
    check_equal(*[one.ask(QUESTIONS[0], max_new_tokens=TOKENS) for one in other])
    assert runtime.processor.system != "Be short."


def rectangle(hw: tuple[int, int]) -> Target:
    mask = np.zeros(hw, dtype=bool)
    mask[hw[0] // 5 : hw[0] // 2, hw[1] // 6 : hw[1] // 2] = True
    return Target.of_mask("x", (0, 1), mask, 0.5)


MARKS = (
    {"points": [(10, 10, 1)]},
    {"points": [(3, 4, 0), (15, 25, 1)]},
    {"box": (2, 3, 16, 20)},
    {"strokes": [([(3, 3), (18, 9)], True)]},
)


@pytest.mark.parametrize("size", [(40, 30), (20, 60), (70, 70)])
def test_corrections(pair, size):
    """Each goes on from the one before, so that earlier prompts count."""
    for asked in pair:
        asked.set_image(picture(8, *size))
    targets = [rectangle(size[::-1])] * 2
    if not pair[0].takes_prompts:
        return check_untrained(pair, targets[0])
    assert pair[1].takes_prompts
    for marks in MARKS:
        before = targets[0].area
        targets = [asked.refine(target, **marks) for asked, target in zip(pair, targets, strict=True)]
        theirs, ours = (target.mask for target in targets)
        assert (ours & theirs).sum() >= 0.999 * (ours | theirs).sum()
        assert targets[1].score == pytest.approx(targets[0].score, abs=1e-4)
    assert targets[0].area != before


def check_untrained(pair, target: Target) -> None:
    for asked in pair:
        assert not asked.takes_prompts
        with pytest.raises(ValueError, match="trained with visual prompts"):
            asked.refine(target, points=[(1, 1, 1)])


def test_a_correction_changes_one_target(pair):
    _, runtime = pair
    runtime.set_image(picture(8))
    if not runtime.takes_prompts:
        return
    target = rectangle((30, 40))
    answer = Answer("Where?", "x and x", (target, target), (30, 40))
    corrected = runtime.refine(answer, 1, points=[(30, 20, 1)])
    assert corrected.targets[0] is target
    assert corrected.targets[1].rle != target.rle
    with pytest.raises(ValueError, match="points, a box or strokes"):
        runtime.refine(answer, 1)
    nothing = Target.of_mask("x", (0, 1), np.zeros((30, 40), dtype=bool), 0.0)
    assert runtime.refine(nothing, points=[(3, 3, 0)]).area == 0


def test_the_graph_of_corrections_is_opened_when_it_is_used(pair, tmp_path):
    _, runtime = pair
    if not runtime.takes_prompts:
        return
    for file in runtime.graphs.directory.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / REFINE).unlink()
    (tmp_path / REFINE).write_bytes(b"nothing")
    damaged = load(tmp_path)
    damaged.set_image(picture(8))
    with pytest.raises(ValueError, match="expected the graphs of an exported model"):
        damaged.refine(rectangle((30, 40)), points=[(3, 3, 1)])


def test_optimised_graphs_give_the_same(pair, tmp_path):
    """Directories that were exported before there were optimised graphs have none."""
    _, runtime = pair
    directory = runtime.graphs.directory
    optimised = {optimised_path(directory, name) for name in (ENCODE, MASKS)}
    assert all(path.is_file() and path.with_suffix(".bin").is_file() for path in optimised)
    for file in set(directory.iterdir()) - optimised:
        (tmp_path / file.name).symlink_to(file)
    plain, image = load(tmp_path), picture(9)
    expected, got = (one.encode([image]).images[0] for one in (plain, runtime))
    for name, tensor in expected.items():
        np.testing.assert_allclose(got[name], tensor, rtol=1e-5, atol=1e-6, err_msg=name)
    manifest = runtime.graphs.manifest
    states = np.random.default_rng(0).standard_normal((len(manifest.codebook_ids), manifest.width), np.float32)
    logits = (one.graphs.masks(states, expected)[0] for one in (plain, runtime))
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_quantised(clip_model, clip_processor, tmp_path):
    export(clip_model, clip_processor, tmp_path, "int8")
    manifest = Manifest.read(tmp_path / MANIFEST)
    kinds = {place.kind for place in manifest.tensors}
    assert {"blocks8", "scales8", "float16"} <= kinds
    runtime, exact = load(tmp_path), Predictor(clip_model, clip_processor)
    image = picture(7)
    states = np.random.default_rng(0).standard_normal((len(manifest.codebook_ids), manifest.width), np.float32)
    with torch.inference_mode():
        logits = clip_model.decode_masks(
            exact.encode([image]).images, torch.from_numpy(states), torch.zeros(1, dtype=torch.long)
        )
    np.testing.assert_allclose(runtime.graphs.masks(states, runtime.encode([image]).images[0])[0], logits[0], atol=1e-3)
    runtime.set_image(image)
    assert runtime.ask(QUESTIONS[0], max_new_tokens=8).token_ids


def test_check(pair):
    torch_, runtime = pair
    assert check(torch_, runtime.graphs.directory, "float32") <= LOGITS


def test_check_compares_corrections(pair):
    torch_, runtime = pair
    if not torch_.takes_prompts:
        return
    other = Predictor(copy.deepcopy(torch_.model), torch_.processor)
    with torch.no_grad():
        other.model.refiner.output.bias += 10 * LOGITS
    with pytest.raises(ValueError, match=r"corrected masks by 1\.0e-02"):
        check(other, runtime.graphs.directory, "int8")


def test_damaged(pair, tmp_path):
    _, runtime = pair
    with pytest.raises(ValueError, match=r"expected the manifest .* Export again"):
        Graphs(tmp_path)
    values = json.loads(json.dumps({"version": 99}))
    (tmp_path / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(ValueError, match="expected version 1"):
        Graphs(tmp_path)
    runtime.graphs.manifest.write(tmp_path / MANIFEST)
    (tmp_path / MASKS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected the graphs of an exported model"):
        Graphs(tmp_path)
    assert not (tmp_path / WEIGHTS).exists()


def test_a_base_that_sees_by_itself_is_refused(tmp_path):
    model, processor = extend(*tiny_vlm("llava"), NewParts(decoder_dim=32, mask_grid=8))
    with pytest.raises(ValueError, match="BackboneForConditionalGeneration"):
        export(model, processor, tmp_path)
    assert not any(tmp_path.iterdir())
