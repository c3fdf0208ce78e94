"""One step of a batch: which questions go together, and what comes of bad ones among them."""

from pathlib import Path

import pytest

from pixellm.batch.questions import FileQuestion, batches, by_image
from pixellm.batch.run import BatchFiles, answer
from pixellm.types import Segmenter
from pixellm.utils.files import exclusive_lock
from tests.support import tiny


def asked(folder: Path, *images: int) -> list[FileQuestion]:
    """Questions on some images, each longer than the one before."""
    return [FileQuestion(f"{i}", i + 1, folder / f"{image}.png", "Where" + "?" * i) for i, image in enumerate(images)]


@pytest.fixture
def folder(tmp_path):
    for image in range(4):
        tiny.picture(50, 30, image).save(tmp_path / f"{image}.png")
    return tmp_path


def sizes(questions: list[FileQuestion], size: int) -> list[list[int]]:
    return [[len(group) for group in groups] for groups in batches(by_image(questions), size)]


def test_small_groups_go_together_and_large_ones_alone(folder):
    questions = asked(folder, 0, 1, 2, 3, 3, 3, 3, 3, 2)
    assert sizes(questions, 4) == [[1, 1], [5], [2]]  # by the length of a group's longest question
    assert sizes(questions, 100) == [[1, 1, 5, 2]]
    found = [one for groups in batches(by_image(questions), 4) for group in groups for one in group]
    assert sorted(found, key=lambda one: one.line) == questions
    assert batches([], 4) == []


def test_together_is_one_by_one(folder, predictor):
    predictor.sampling = {"max_new_tokens": 5}
    groups = by_image(asked(folder, 0, 1, 2, 0))
    together = answer(predictor, groups)
    alone = [row for group in groups for row in answer(predictor, [group])]
    assert together == alone
    assert {row["id"] for row in together} == {"0", "1", "2", "3"}


def test_a_bad_image_is_not_the_others_fault(folder, predictor):
    predictor.sampling = {"max_new_tokens": 5}
    (folder / "1.png").write_bytes(b"no picture")
    rows = {row["id"]: row for row in answer(predictor, by_image(asked(folder, 0, 1, 2, 1)))}
    assert "1.png" in rows["1"]["reason"]
    assert rows["3"]["line"] == 4
    assert "reason" not in rows["0"]
    assert "reason" not in rows["2"]


def test_a_question_that_is_refused_is_not_the_others_fault(folder, predictor, monkeypatch):
    predictor.sampling = {"max_new_tokens": 5}
    ids = predictor.processor.prompt_ids

    def refuse(question, *history):
        if question == "Where?":
            raise ValueError("too hard")
        return ids(question, *history)

    monkeypatch.setattr(predictor.processor, "prompt_ids", refuse)
    rows = {row["id"]: row for row in answer(predictor, by_image(asked(folder, 0, 1, 2)))}
    assert rows["1"]["reason"] == "too hard"
    assert "text" in rows["0"]
    assert "text" in rows["2"]


def test_a_segmenter_that_takes_one_image_at_a_time(folder, predictor):
    class Single(Segmenter):
        def set_image(self, image):
            predictor.set_image(image)

        def ask(self, question):
            return predictor.ask(question)

    predictor.sampling = {"max_new_tokens": 5}
    groups = by_image(asked(folder, 0, 1))
    assert answer(Single(), groups) == answer(predictor, groups)


def test_killed_between_the_answers_and_the_end_of_the_part(folder):
    """Both files are there: nothing is asked again, and the part goes."""
    path = folder / "q.jsonl"
    path.write_text('{"image": "0.png", "question": "Where?"}\n')
    batch = BatchFiles(path, folder / "out.jsonl", {"model": "x"})
    row = {"id": "1", "text": "Here.", "masks": []}
    with exclusive_lock(batch.out):
        assert len(batch.pending()) == 1
        batch.keep([row])
        part = (folder / "out.jsonl.part").read_text()
        assert batch.finish().complete
        (folder / "out.jsonl.part").write_text(part)
        assert batch.pending() == []
        assert batch.finish().answered == 1
    assert {one.name for one in folder.iterdir() if one.suffix != ".png"} == {"q.jsonl", "out.jsonl"}
