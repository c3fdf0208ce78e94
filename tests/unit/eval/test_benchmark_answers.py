"""A model answers a benchmark: what it is asked, interruptions, part files, answers that are given."""

import json

import numpy as np
import pytest
import torch

from pixellm.eval import answering, resumable
from pixellm.eval.answering import answer_all, fingerprint
from pixellm.eval.benchmarks import load_benchmark
from pixellm.eval.predictions import read_predictions
from pixellm.eval.protocols import choose_protocol
from pixellm.eval.report import score
from pixellm.types import Answer, Segmenter, Target
from pixellm.utils.files import exclusive_lock
from tests.support import tiny, trees


@pytest.fixture
def benchmark(tmp_path):
    """Two images with five questions."""
    references = [
        trees.reference(1, 1, "cup", "mug", "beaker", split="val"),
        trees.reference(2, 2, "jug", "pitcher", split="val", image_id=2),
    ]
    trees.refcoco(tmp_path, references, {1: [trees.SQUARE], 2: [trees.BAR]})
    return load_benchmark("refer", tmp_path)


class Knows(Segmenter):
    """Says the square to everything on the first image and the bar on the second."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.left, self.asked = stop_after, []

    def set_image(self, image: str) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        self.mask = trees.square() if image.endswith("1.jpg") else trees.bar()

    def ask(self, question: str) -> Answer:
        self.asked.append(question)
        return Answer(question, "The thing.", (Target.of_mask("The thing", (0, 9), self.mask, 0.75),), self.mask.shape)


MADE = {"model": "abc", "name": "knows", "teacher_forced": False}


def run(segmenter, benchmark, out, **changes):
    settings = MADE | changes
    made = fingerprint(benchmark, **settings)
    return answer_all(segmenter, benchmark, out, made, settings["teacher_forced"], False)


def test_answers_are_scored_as_they_are(benchmark, tmp_path):
    segmenter = Knows()
    path = run(segmenter, benchmark, tmp_path / "out")
    assert segmenter.asked == [question.text for question in benchmark.questions]
    predictions = read_predictions(path)
    assert list(predictions.answers) == [question.id for question in benchmark.questions]
    answer = predictions.answers["refcoco/val/1/0"]
    assert [(target.phrase, target.score) for target in answer.targets] == [("The thing", 0.75)]
    report = score(benchmark, predictions, choose_protocol("refer", None))
    assert report.overall.values["giou"] == 1
    assert "Answers: by generation" in report.markdown()
    assert not (tmp_path / "out/parts").exists()


def test_interrupted_it_goes_on(benchmark, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Knows(stop_after=1), benchmark, tmp_path / "out")
    part = tmp_path / "out/parts/0.jsonl"
    with part.open("a") as file:
        file.write('{"id": "refco')
    segmenter = Knows()
    path = run(segmenter, benchmark, tmp_path / "out")
    assert len(segmenter.asked) == 2
    whole = run(Knows(), benchmark, tmp_path / "at once")
    assert path.read_text() == whole.read_text()
    again = Knows(stop_after=0)
    assert run(again, benchmark, tmp_path / "out") == path
    with pytest.raises(ValueError, match="got those of another \\(model: abc, now other\\)"):
        run(again, benchmark, tmp_path / "out", model="other")


def test_not_while_another_process_writes_there(benchmark, tmp_path):
    with exclusive_lock(tmp_path / "parts/0.jsonl"), pytest.raises(ValueError, match="alone, but another process does"):
        run(Knows(), benchmark, tmp_path)


def test_another_number_of_processes_goes_on(benchmark, tmp_path, monkeypatch):
    """Two processes take an image each; what they leave is put together by whoever comes."""
    monkeypatch.setattr(answering, "wait_for_all", lambda world: None)
    monkeypatch.setattr(answering, "processes", lambda: (1, 2))
    second = Knows()
    assert run(second, benchmark, tmp_path / "out") is None
    assert len(second.asked) == 2
    monkeypatch.setattr(answering, "processes", lambda: (0, 1))
    first = Knows()
    path = run(first, benchmark, tmp_path / "out")
    assert len(first.asked) == 3
    assert path.read_text() == run(Knows(), benchmark, tmp_path / "at once").read_text()


def test_several_questions_at_a_time(benchmark, tmp_path, monkeypatch):
    class Batched(Knows):
        sizes = ()

        def ask_many(self, questions):
            self.sizes += (len(questions),)
            return [self.ask(question) for question in questions]

    monkeypatch.setattr(resumable, "CHUNK", 2)
    segmenter = Batched()
    run(segmenter, benchmark, tmp_path / "out")
    assert segmenter.sizes == (2, 1, 2)


def test_only_some_models_can_be_given_answers(benchmark, tmp_path):
    with pytest.raises(ValueError, match="--teacher-forced: expected a PixelLM model"):
        run(Knows(), benchmark, tmp_path / "out", teacher_forced=True)


def test_teacher_forced(benchmark, tmp_path, predictor):
    path = run(predictor, benchmark, tmp_path / "out", teacher_forced=True)
    predictions = read_predictions(path)
    assert all(len(answer.targets) == 1 for answer in predictions.answers.values())
    report = score(benchmark, predictions, choose_protocol("refer", None))
    assert "Answers: teacher-forced" in report.markdown()


def test_given_answers_have_the_masks_that_writing_them_gives(predictor):
    """One forward pass over a given answer = generation that is forced to write it; several at once = one by one."""
    question, answer = "Where is the dog?", "The dog {seg}, the cat {seg} and the table {seg}."
    predictor.set_image(tiny.picture(50, 40))
    write = tiny.Write(predictor.processor, {question: tiny.plan_of(predictor.processor, answer)})
    written = predictor.ask(question, processors=[write], no_repeat_ngram_size=0)
    given, other = predictor.segment_given([question, "What?"], [answer, "{seg}."])
    assert (given.text, len(given.targets), len(other.targets)) == (written.text, 3, 1)
    for one, two in zip(given.targets, written.targets, strict=True):
        assert (one.phrase, one.span) == (two.phrase, two.span)
        assert np.mean(one.mask == two.mask) > 0.999  # rounding may move a pixel at the edge
    alone = predictor.segment_given([question], [answer])[0]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(alone.targets, given.targets, strict=True))


def test_nothing_given(predictor):
    predictor.set_image(tiny.picture(50, 40))
    assert predictor.segment_given([], []) == []
    with torch.inference_mode():
        assert predictor.segment_given(["What?"], ["Nothing."])[0].targets == ()


def test_the_file_is_in_the_format_that_is_scored(benchmark, tmp_path):
    lines = run(Knows(), benchmark, tmp_path / "out").read_text().splitlines()
    assert json.loads(lines[0])["fingerprint"]["name"] == "knows"
    row = json.loads(lines[1])
    assert row == Answer.from_json(row).to_json()
    assert (row["id"], row["question"]) == (benchmark.questions[0].id, benchmark.questions[0].text)
    assert row["image"] == str(benchmark.questions[0].image)
