"""`pixellm export` as people use it: behind `ask`, behind `batch`, and wrongly."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from pixellm import cli
from pixellm.imaging import masks
from tests.support import exports, serving, tiny


@pytest.fixture
def pixellm(monkeypatch, capsys):
    """Runs a command in this process; its exit code, and what it said to stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pixellm", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return run


def test_behind_ask(pixellm, tmp_path):
    model, answer = serving.write_model(tmp_path / "model"), tmp_path / "answer.json"
    options = ("--model", model, "--max-new-tokens", "24", "--device", "cpu")
    code, _, said = pixellm("ask", "example:cat", "table", *options, "--json", answer, "--out", tmp_path / "a.png")
    assert code == 0, said
    given = json.loads(answer.read_text())
    assert given["image"] == "example:cat"
    code, said, _ = pixellm("export", answer, "--to", "cutout", "--out", tmp_path / "things")
    assert code == 0
    count = len(given["targets"])
    assert count
    assert f"cutout: {count} masks of 1 images" in said
    cut = exports.pixels(next((tmp_path / "things").glob("cat-1_*.png")))
    first = given["targets"][0]
    assert int((cut[..., 3] > 0).sum()) == first["area"]
    assert cut.shape[1::-1] == tuple(first["box"][2:])
    scores = sorted(target["score"] for target in given["targets"])
    code, said, _ = pixellm(
        "export", answer, "--to", "coco", "--out", tmp_path / "sure.json", "--min-score", scores[-1]
    )
    assert code == 0
    assert {row["score"] for row in json.loads((tmp_path / "sure.json").read_text())["annotations"]} == {scores[-1]}
    for to in ("labelme", "yolo-seg", "png"):
        assert pixellm("export", answer, "--to", to, "--out", tmp_path / to)[0] == 0
        assert list((tmp_path / to).rglob("cat.png"))  # the photograph is no file: it is written beside


def test_behind_batch(pixellm, tmp_path):
    rows = []
    for seed in range(2):
        tiny.picture(60, 40, seed).save(tmp_path / f"{seed}.png")
        rows += [{"image": f"{seed}.png", "question": question} for question in serving.QUESTIONS[:2]]
    questions = exports.write(tmp_path / "questions.jsonl", rows)
    options = ("--model", serving.write_model(tmp_path / "model"), "--max-new-tokens", "24", "--device", "cpu")
    code, _, said = pixellm("batch", questions, *options, "--out", tmp_path / "answers.jsonl")
    assert code == 0, said
    code, said, _ = pixellm("export", tmp_path / "answers.jsonl", "--to", "coco", "--out", tmp_path / "coco.json")
    assert code == 0
    _, *answers = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    wanted = [masks.decode(one["segmentation"], 40, 60) for answer in answers for one in answer["targets"]]
    read = COCO(str(tmp_path / "coco.json"))
    found = [read.annToMask(one) for one in read.loadAnns(read.getAnnIds())]
    assert [image["file_name"] for image in read.imgs.values()] == ["0.png", "1.png"]
    assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))


def test_losses_are_said(pixellm, tmp_path):
    path = exports.predictions(tmp_path)
    code, said, _ = pixellm("export", path, "--to", "yolo-seg", "--out", tmp_path / "yolo")
    assert code == 0
    assert "yolo-seg: 4 masks of 2 images" in said
    assert "polygons, filled again: IoU 0.9" in said
    assert "left out: 1 masks without a pixel" in said
    code, said, _ = pixellm("export", path, "--to", "muse", "--out", tmp_path / "muse.json")
    assert "left out: 1 answers without a mask or a question" in said
    assert "IoU" not in said


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ("", ("--to", "coco"), "predictions.jsonl, got none"),
        ("no JSON", ("--to", "coco"), "line 1: Expecting value"),
        ('{"id": "1", "text": "", "masks": []}', ("--to", "coco"), "give --questions with the file"),
        (
            '{"targets": [], "text": "", "image": "x.png"}',
            ("--to", "coco"),
            "answer 1: expected the fields text",
        ),
        (None, ("--to", "coco", "--tolerance", "-1"), "--tolerance"),
        (None, ("--to", "voc"), "--to"),
        (None, ("--to", "cutout", "--image", "none.png"), "none.png"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(pixellm, tmp_path, content, options, reason):
    path = exports.predictions(tmp_path)
    if content is not None:
        path.write_text(content)
    before = sorted(tmp_path.iterdir())
    code, _, said = pixellm("export", path, *options, "--out", tmp_path / "out")
    assert code == 2
    assert reason in said
    assert "Traceback" not in said
    assert sorted(tmp_path.iterdir()) == before
