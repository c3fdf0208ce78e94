"""Everything else works with a model of `pixellm init`: weights at 8 and 4 bits, commands, and the server's batches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pixellm.backbones.create import NewParts, extend
from pixellm.cli import app
from pixellm.inference.quantization import Int4Linear, Int8Linear
from pixellm.segmenter import load
from pixellm.serve.engine import InferenceEngine
from pixellm.serve.messages import AnswerFailed, AnswerFinished, Job, WorkerSettings
from pixellm.types import Target, TextPiece
from tests.support.shapes import write_scenes
from tests.support.tiny_vlms import let_it_write_masks, position_image, tiny_vlm

# M-RoPE; both-way images and windows; states that can't be cut.
FAMILIES = ("qwen3_vl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "qwen3_5")))
TOKENS = 12
SIZES = ((60, 80), (90, 60), (50, 50))
QUESTIONS = ("What is the dog?", "Where is the cat?", "table")


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request, tmp_path_factory) -> Path:
    """A checkpoint that likes masks."""
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = extend(*tiny_vlm(request.param), NewParts(decoder_dim=32, mask_grid=8))
    let_it_write_masks(model, processor)
    for part in (model, processor):
        part.save_pretrained(folder)
    return folder


def run(*arguments: object) -> str:
    """Run a command that has to succeed, and return what it printed."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantised(directory, quantize):
    """The language model's layers alone are quantised, and answers keep their form."""
    predictor, plain = load(directory, quantize=quantize), load(directory)
    kinds = {type(module) for module in predictor.model.modules()}
    assert (Int8Linear if quantize == "int8" else Int4Linear) in kinds
    tower = predictor.model.vision_modules
    assert not any(isinstance(m, Int8Linear | Int4Linear) for part in tower for m in part.modules())
    image = position_image(*SIZES[0])
    assert predictor(image, QUESTIONS[0], max_new_tokens=TOKENS).token_ids
    states = [p.model.encode_image(p.processor.image_inputs(image)).maps[0] for p in (predictor, plain)]
    assert torch.equal(*states)
    with pytest.raises(ValueError, match="quantised when it was loaded"):
        predictor.model.save_pretrained(directory / "again")


def test_commands(directory, tmp_path):
    """Ask → batch → export → questions → eval → score → attention, each on the files of those before."""
    data = write_scenes(tmp_path / "data", 2)
    model, image = ("--model", directory), data.parent / "0.png"
    place = ("--json", "-", "--out", tmp_path / "answer.png")
    asked = json.loads(run("ask", image, QUESTIONS[0], *model, *place, "--max-new-tokens", TOKENS))
    if not asked["targets"]:
        pytest.skip("this tiny model writes no mask")
    questions, answers = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    rows = [{"image": str(image), "question": question} for question in QUESTIONS]
    questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run("batch", questions, "--out", answers, *model, "--max-new-tokens", TOKENS, "--quantize", "int8")
    run("batch", questions, "--out", tmp_path / "plain.jsonl", *model, "--max-new-tokens", TOKENS)
    lines = map(json.loads, (tmp_path / "plain.jsonl").read_text(encoding="utf-8").splitlines())
    first = next(line for line in lines if line.get("question") == QUESTIONS[0])
    assert first["targets"] == asked["targets"]
    assert "masks of 1 images" in run("export", tmp_path / "plain.jsonl", "--to", "coco", "--out", tmp_path / "c.json")
    run("eval", "--data", data, "--limit", 1, *model, "--out", tmp_path / "eval")
    predictions = tmp_path / "eval" / "predictions.jsonl"
    run("score", predictions, "--data", data, "--limit", 1, "--out", tmp_path / "score")
    sheet = tmp_path / "attention.png"
    run("attention", image, QUESTIONS[0], *model, "--out", sheet)
    assert sheet.is_file()


def job(number: int, predictor, system: str | None = None) -> Job:
    image = position_image(*SIZES[number % 3])
    question = QUESTIONS[number % 2]
    sampling = {"max_new_tokens": TOKENS + number}
    return Job(number, "t", f"d{number % 3}", image.tobytes(), image.size, question, system=system, sampling=sampling)


@pytest.mark.parametrize("joint", [False, True], ids=["exact", "joint"])
def test_questions_that_join_and_leave_are_answered_as_alone(directory, joint):
    """Images of several lengths in one batch; a second question on an image reuses its prefix."""
    predictor = load(directory)
    engine = InferenceEngine(predictor, WorkerSettings("", batch_size=3, joint=joint))
    jobs = [job(number, predictor) for number in range(6)]
    items: dict[int, list] = {}
    for step in range(200):
        for new in jobs[step : step + 1] if step < len(jobs) else ():
            engine.submit(new)
        for number, item in engine.step()[0]:
            items.setdefault(number, []).append(item)
    assert engine.idle
    seconds = [items[number][-1].encode_seconds for number in range(6)]
    assert [second is None for second in seconds] == [False] * 3 + [True] * 3
    for one in jobs:
        *pieces, end = items[one.job_id]
        assert isinstance(end, AnswerFinished)
        alone = predictor(position_image(*SIZES[one.job_id % 3]), one.question, **one.sampling)
        assert "".join(item.text for item in pieces if isinstance(item, TextPiece)) == alone.text
        found = [item for item in pieces if isinstance(item, Target)]
        assert [target.span for target in found] == [target.span for target in alone.targets]
        for target, expected in zip(found, alone.targets, strict=True):
            assert np.mean(target.mask != expected.mask) < 0.01
        prefix = len(predictor.processor.image_inputs(position_image(*SIZES[one.job_id % 3])).prefix_ids)
        assert end.prompt_tokens == prefix + len(predictor.prompt_ids(one.question))


def test_a_system_prompt_and_a_long_question_on_the_server(directory):
    predictor = load(directory)
    engine = InferenceEngine(predictor, WorkerSettings("", batch_size=2, max_prompt_tokens=60))
    engine.submit(job(0, predictor, system="Answer with the masks of what you name."))
    image = position_image(*SIZES[0])
    long = Job(1, "t", "d", image.tobytes(), image.size, "the dog and the cat " * 30, sampling={"max_new_tokens": 4})
    engine.submit(long)
    events = [event for _ in range(60) for event in engine.step()[0]]
    (failed,) = [event for number, event in events if number == 1]
    assert isinstance(failed, AnswerFailed)
    assert "Shorten the question" in failed.message
    expected = predictor.with_prompt("Answer with the masks of what you name.", None)
    answer = expected(image, QUESTIONS[0], max_new_tokens=TOKENS)
    text = "".join(event.text for number, event in events if number == 0 and isinstance(event, TextPiece))
    assert text == answer.text
