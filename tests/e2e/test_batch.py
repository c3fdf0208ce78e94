"""`pixellm batch` as a process: killed, interrupted, with bad lines, on a local Ray cluster; its answers are scored."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pixellm import cli
from pixellm.eval.predictions import read_predictions
from pixellm.segmenter import load
from tests.support import serving, tiny

PIXELLM = Path(sys.executable).with_name("pixellm")
IMAGES, TOKENS = 12, 24


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return serving.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def questions(tmp_path) -> Path:
    """Four about each of some images, out of order."""
    rows = []
    for image in range(IMAGES):
        tiny.picture(60, 40, image).save(tmp_path / f"{image}.png")
        rows += [
            {"id": f"{image}/{i}", "image": f"{image}.png", "question": q} for i, q in enumerate(serving.QUESTIONS)
        ]
    random.Random(0).shuffle(rows)
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "questions.jsonl"


def command(model: Path, questions: Path, *more: str) -> list[str]:
    out = questions.with_name("answers.jsonl")
    options = ["--model", str(model), "--max-new-tokens", str(TOKENS), "--device", "cpu"]
    return [str(PIXELLM), "batch", str(questions), "--out", str(out), *options, *more]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)


def answers(questions: Path) -> list[dict]:
    _, *rows = map(json.loads, questions.with_name("answers.jsonl").read_text().splitlines())
    return rows


def wanted(questions: Path) -> list[str]:
    return [json.loads(line)["id"] for line in questions.read_text().splitlines() if line]


def test_answers_in_order_and_nothing_the_second_time(model, questions) -> None:
    done = run(command(model, questions))
    assert done.returncode == 0, done.stderr
    assert f"{4 * IMAGES} answers" in done.stdout
    rows = answers(questions)
    assert [row["id"] for row in rows] == wanted(questions)
    assert {path.name for path in questions.parent.iterdir() if path.suffix != ".png"} == {
        "questions.jsonl",
        "answers.jsonl",
    }
    predictor = load(model, sampling={"max_new_tokens": TOKENS})
    predictor.set_image(str(questions.parent / "0.png"))
    (row,) = (row for row in rows if row["id"] == "0/1")
    assert row["text"] == predictor.ask(serving.QUESTIONS[1]).text
    assert row["question"] == serving.QUESTIONS[1]
    before = questions.with_name("answers.jsonl").stat().st_mtime_ns
    again = run(command(model, questions))
    assert again.returncode == 0
    assert questions.with_name("answers.jsonl").stat().st_mtime_ns == before
    assert len(read_predictions(questions.with_name("answers.jsonl")).answers) == 4 * IMAGES


def test_a_minimum_score_leaves_masks_out(model, questions) -> None:
    predictor = load(model, sampling={"max_new_tokens": TOKENS})
    predictor.set_image(str(questions.parent / "0.png"))
    whole = [predictor.ask(question) for question in serving.QUESTIONS]
    scores = sorted(target.score for answer in whole for target in answer.targets)
    least = sum(scores[len(scores) // 2 - 1 : len(scores) // 2 + 1]) / 2
    assert scores[0] < least < scores[-1]
    done = run(command(model, questions, "--min-score", f"{least}"))
    assert done.returncode == 0, done.stderr
    rows = {row["id"]: row for row in answers(questions)}
    for number, answer in enumerate(whole):
        assert rows[f"0/{number}"]["text"] == answer.text
        kept = [list(target.span) for target in answer.targets if target.score >= least]
        assert [target["span"] for target in rows[f"0/{number}"]["targets"]] == kept
    refused = run(command(model, questions))
    assert (refused.returncode, f"min_score: {least}, now None" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_killed_at_random_moments(model, questions) -> None:
    part, rng, kills = questions.with_name("answers.jsonl.part"), random.Random(3), 0
    for wait_for in (4, 16, 28):
        process = subprocess.Popen(command(model, questions), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not part.is_file() or part.read_bytes().count(b"\n") <= wait_for):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills
    kept = [json.loads(line)["id"] for line in part.read_text().splitlines()[1:-1]]
    assert len(kept) == len(set(kept))
    done = run(command(model, questions))
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in answers(questions)] == wanted(questions)
    assert not part.exists()


def test_bad_lines_are_reported_and_the_rest_is_answered(model, questions) -> None:
    (questions.parent / "broken.png").write_bytes(b"\x89PNG no picture")
    with questions.open("a") as file:
        file.write('{"image": "none.png", "question": "Where?"}\n')
        file.write('{"image": "0.png"}\n\nno JSON\n')
        file.write('{"id": "0/0", "image": "0.png", "question": "Again?"}\n')
        file.write('{"id": "x", "image": "broken.png", "question": "What is it?"}\n')
    done = run(command(model, questions))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(answers(questions)) == 4 * IMAGES
    rows = [json.loads(line) for line in questions.with_name("answers.jsonl.bad.jsonl").read_text().splitlines()]
    start = 4 * IMAGES
    assert [row["line"] for row in rows] == [start + 1, start + 2, start + 4, start + 5, start + 6]
    for row, reason in zip(
        rows, ("found none", "none called question", "JSON object", "on line", "broken.png"), strict=True
    ):
        assert reason in row["reason"]
    assert f"line {start + 1}: expected an image" in done.stdout
    before = questions.with_name("answers.jsonl").stat().st_mtime_ns
    assert run(command(model, questions)).returncode == 1
    assert questions.with_name("answers.jsonl").stat().st_mtime_ns == before


def test_what_could_not_be_answered_is_tried_again(model, questions) -> None:
    """Once the image is there; what was answered stays as it is."""
    gone = questions.with_name("5.png")
    kept = gone.rename(questions.with_name("away"))
    assert run(command(model, questions)).returncode == 1
    first = answers(questions)
    assert len(first) == 4 * IMAGES - 4
    kept.rename(gone)
    done = run(command(model, questions))
    assert done.returncode == 0, done.stderr
    rows = answers(questions)
    assert [row["id"] for row in rows] == wanted(questions)
    assert [row for row in rows if not row["id"].startswith("5/")] == first
    assert not questions.with_name("answers.jsonl.bad.jsonl").exists()
    assert not questions.with_name("answers.jsonl.part").exists()


def test_ctrl_c_and_a_second_process(model, questions) -> None:
    process = subprocess.Popen(command(model, questions), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = questions.with_name("answers.jsonl.part")
    while not part.is_file() or part.read_bytes().count(b"\n") < 2:
        time.sleep(0.005)
    second = run(command(model, questions))
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    if second.returncode != 0:  # the first was still at work
        assert second.returncode == 2
        assert "another process" in second.stderr
    assert process.returncode in (0, 130)
    assert "Traceback" not in errors
    assert ("not complete yet" in output) == (process.returncode == 130)
    assert run(command(model, questions)).returncode == 0
    assert [row["id"] for row in answers(questions)] == wanted(questions)


def test_other_questions_or_another_model_are_refused(model, questions, monkeypatch, capsys) -> None:
    def refused(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", list(arguments))
        with pytest.raises(SystemExit, match="2"):
            cli.main()
        return capsys.readouterr().err

    assert run(command(model, questions)).returncode == 0
    assert "got those of another (sampling" in refused(*command(model, questions), "--max-new-tokens", "3")
    with questions.open("a") as file:
        file.write('{"image": "0.png", "question": "Where?"}\n')
    assert "got those of another (questions" in refused(*command(model, questions))


@pytest.mark.slow
def test_a_worker_of_a_cluster_is_killed(model, questions) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    arguments = command(model, questions, "--engine", "ray", "--workers", "2")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    part = questions.with_name("answers.jsonl.part")
    while process.poll() is None and (not part.is_file() or part.read_bytes().count(b"\n") < 5):
        time.sleep(0.01)
    workers = [
        one
        for one in psutil.Process(process.pid).children(recursive=True)
        if "MapBatches(BatchWorker)" in " ".join(one.cmdline())
    ]
    assert len(workers) == 2
    workers[0].kill()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"{4 * IMAGES} answers" in output
    rows = answers(questions)
    assert [row["id"] for row in rows] == wanted(questions)
