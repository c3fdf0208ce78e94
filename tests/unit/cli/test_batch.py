"""`pixellm batch` by onnxruntime: without torch, resumed, and which options need torch."""

import json

import pytest

from pixellm import cli
from pixellm.imaging.images import load_image
from tests.support import light

QUESTION = "Segment the cat."


@pytest.fixture
def folder(tmp_path):
    load_image("example:cat").save(tmp_path / "cat.png")
    rows = [{"id": "cat", "image": "cat.png", "question": QUESTION}, {"id": "none", "image": "no.png", "question": "?"}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_without_torch(folder):
    done = light.run(folder, "batch", "questions.jsonl", "--out", "answers.jsonl", "--max-new-tokens", "24")
    assert (done.returncode, "1 answers" in done.stdout) == (1, True), done.stderr  # one image is missing
    header, row = map(json.loads, (folder / "answers.jsonl").read_text().splitlines())
    assert [target["phrase"] for target in row["targets"]] == ["The cat"]
    assert header["fingerprint"]["dtype"] == "onnx"
    assert "found none" in (folder / "answers.jsonl.bad.jsonl").read_text()


def test_answers_of_another_runtime_are_not_resumed(folder, monkeypatch, capsys):
    fingerprint = {"pixellm": "0", "dtype": "float32"}
    (folder / "answers.jsonl").write_text(json.dumps({"fingerprint": fingerprint}) + "\n")
    words = ["batch", "questions.jsonl", "--out", "answers.jsonl", "--runtime", "onnx"]
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["pixellm", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "dtype: float32, now onnx" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--num-gpus", "1"), ("--dtype", "bfloat16"), ("--namer", "x")])
def test_options_of_torch(folder, option, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["pixellm", "batch", "questions.jsonl", "--out", "a", "--runtime", "onnx", *option])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert (stop.value.code, "with --runtime onnx" in capsys.readouterr().err) == (2, True)
