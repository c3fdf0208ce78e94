"""`pixellm questions`, `score` and `eval --benchmark` as people use them, on one process and on two."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pixellm import cli
from tests.support import trees

MUSE = ("--benchmark", "muse")


def pixellm(*arguments: str | Path, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = []
    if processes > 1:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    environment = {"NO_COLOR": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", *launcher, "pixellm", *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def refused(monkeypatch, capsys):
    """What a command that is refused says, called in this process."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["pixellm", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return run


@pytest.fixture
def root(tmp_path) -> Path:
    """MUSE with two questions on each of three images, and RefCOCO with four sentences on two."""
    entries = []
    for number in range(3):
        cup, jug = trees.muse_answer([trees.SQUARE]), trees.muse_answer([trees.BAR], "jug")
        url = f"http://images.cocodataset.org/train2017/{number}.jpg"
        trees.photograph(tmp_path / f"refer_seg/images/mscoco/images/train2017/{number}.jpg")
        entries.append(trees.muse_entry(["What is there?", "Which?"], [[cup, jug], [cup]], id=number, coco_url=url))
    trees.write_json(tmp_path / "muse/muse_val.json", entries)
    references = [trees.reference(1, 1, "cup", "mug", split="val")]
    references += [trees.reference(2, 2, "jug", "pitcher", split="val", image_id=2)]
    trees.refcoco(tmp_path, references, {1: [trees.SQUARE], 2: [trees.BAR]})
    return tmp_path


@pytest.fixture
def model(tmp_path, clip_model, clip_processor) -> Path:
    for part in (clip_model, clip_processor):
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def right_answers(questions: list[dict]) -> list[dict]:
    """Made by another program: from the exported questions, with masks of its own."""
    square, bar = trees.rle(trees.square()), trees.rle(trees.bar(), False)
    both = {"text": "The jug and the cup.", "masks": [bar, square], "spans": [[0, 7], [12, 19]]}
    one = {"text": "It is the cup.", "masks": [square]}
    return [{"id": q["id"], **(both if q["expression"] == "What is there?" else one)} for q in questions]


def test_another_programs_answers(root, tmp_path):
    exported = pixellm("questions", *MUSE, "--root", root, "--out", tmp_path / "questions.jsonl")
    assert "muse (muse, val): 6 questions" in exported.stdout, exported.stderr
    questions = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert all(Image.open(question["image"]).size == (40, 30) for question in questions)
    rows = right_answers(questions)
    rows[0]["text"], rows[0]["masks"] = "The lamp and the cup.", rows[0]["masks"][:1] * 2  # the bar twice
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text("\n".join(map(json.dumps, rows[:-1])))  # the last question has no answer
    # Of nine pairs one is missed and one has no mask; in the paper's protocol no word says that the bar is a jug.
    for protocol, giou in {"fixed": 7 / 9, "paper": 6 / 9}.items():
        out = tmp_path / protocol
        done = pixellm("score", predictions, *MUSE, "--root", root, "--protocol", protocol, "--out", out)
        assert done.returncode == 0, done.stderr
        assert f"protocol {protocol} v1" in done.stdout
        assert "counted as without a mask: 1" in done.stdout
        report = json.loads((out / "score.json").read_text())
        assert report["missing_ids"] == ["val/2/1"]
        assert report["overall"]["giou"] == pytest.approx(giou)
        table = pq.read_table(out / "questions.parquet").to_pylist()
        assert [row["id"] for row in table] == [question["id"] for question in questions]
        assert table[1]["pairs"][0]["iou"] == 1
        assert Image.open(out / "answers.jpg").width > 400
        assert f"| targets: few | 6 | 9 | {100 * giou:.1f} |" in (out / "score.md").read_text()


@pytest.mark.parametrize(
    ("lines", "options", "pattern"),
    [
        (['{"id": "val/0/0", "text": "", "masks": []}', "{"], (), r"line 2: Expecting"),
        (
            ['{"id": "val/9/0", "text": "", "masks": []}'],
            (),
            r"expected ids of the benchmark's questions, got 1 others",
        ),
        ([], ("--protocol", "united"), r"--protocol: expected one of muse's \(fixed, paper, released\)"),
        ([], ("--split", "testA"), r"expected a split of muse, got 'testA'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(refused, root, tmp_path, lines, options, pattern):
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text("\n".join(lines))
    said = refused("score", predictions, *MUSE, "--root", root, "--out", tmp_path / "out", *options)
    assert re.search(pattern, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--annotations", "a.json"),
        ("--benchmark", "muse", "--images", "."),
        ("--benchmark", "coco"),
        ("--benchmark", "muse", "--data", "a.json"),
        ("--annotations", "a.json", "--images", ".", "--data", "a.json"),
        ("--benchmark", "muse", "--teacher-forced"),
    ],
)
def test_eval_wants_one_of_three(refused, options, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    options = [str(tmp_path / option) if option == "a.json" else option for option in options]
    said = refused("eval", "--out", tmp_path / "out", *options)
    assert re.match(r"Error: (expected one of: --annotations with --images, --data|--teacher-forced: expected)", said)


def test_one_process_and_two_give_the_same(root, model, tmp_path):
    common = ("eval", "--model", model, "--root", root, *MUSE)
    for processes in (1, 2):
        done = pixellm(*common, "--out", tmp_path / f"{processes}", processes=processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("score.json") == 1  # only the first one reports
    for name in ("predictions.jsonl", "score.json", "score.md"):
        assert (tmp_path / "1" / name).read_text() == (tmp_path / "2" / name).read_text()
    report = json.loads((tmp_path / "1/score.json").read_text())
    assert (report["questions"], report["missing"]) == (6, 0)
    assert report["answers"]["answers"].startswith("by generation")


@pytest.mark.slow
def test_teacher_forced(root, model, tmp_path):
    refer = ("eval", "--model", model, "--root", root, "--benchmark", "refer", "--teacher-forced", "--limit", "1")
    done = pixellm(*refer, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Answers: teacher-forced" in done.stdout
    assert "2 questions" in done.stdout


@pytest.mark.slow
def test_a_batch_is_scored_as_an_evaluation_is(root, model, tmp_path):
    """That is, `questions`, `batch` and `score` give what `eval --benchmark` gives."""
    common = (*MUSE, "--root", root)
    assert pixellm("questions", *common, "--out", tmp_path / "asked/questions.jsonl").returncode == 0
    answers = tmp_path / "answers.jsonl"
    done = pixellm("batch", tmp_path / "asked/questions.jsonl", "--model", model, "--out", answers, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    scored = pixellm("score", answers, *common, "--out", tmp_path / "scored")
    assert scored.returncode == 0, scored.stderr
    evaluated = pixellm("eval", "--model", model, *common, "--device", "cpu", "--out", tmp_path / "evaluated")
    assert evaluated.returncode == 0, evaluated.stderr
    one, other = (json.loads((tmp_path / name / "score.json").read_text()) for name in ("scored", "evaluated"))
    assert one["overall"] == other["overall"]
    assert one["missing"] == 0
