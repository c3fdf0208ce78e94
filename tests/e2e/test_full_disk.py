"""Disks that are full or read-only: one line that says what to do, and nothing half-written."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pixellm import cli
from tests.support import trees

ANSWER = {
    **{"image": "example:cat", "question": "Where?", "text": "the cat", "height": 300, "width": 451},
    "targets": [{"span": [0, 7], "segmentation": {"size": [300, 451], "counts": [5, 100, 135195]}}],
}


def with_little_room(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command that can write no file of more than 64 bytes; the system answers as on a full disk."""
    return subprocess.run(
        [sys.executable, "-m", "pixellm", *map(str, arguments)],
        env=os.environ | {"COLUMNS": "200", "PIXELLM_DEBUG": ""},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("form", ["coco", "labelme", "png"])
def test_exports_leave_nothing(tmp_path, form):
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(ANSWER))
    result = with_little_room("export", answers, "--to", form, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert "File too large. Make room" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == [answers]


def test_a_journal_that_cannot_grow(tmp_path):
    annotations = trees.write_json(
        tmp_path / "a.json",
        {"images": [{"id": 1, "file_name": "1.png", "height": 30, "width": 40}], "categories": [], "annotations": []},
    )
    result = with_little_room(
        "muse",
        "generate",
        tmp_path / "muse",
        "--engine",
        "template",
        "--annotations",
        annotations,
        "--images",
        tmp_path,
    )
    assert result.returncode == 1
    assert "Make room" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_thread_that_fails_is_one_line(monkeypatch, capsys):
    def fail():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pixellm.imaging.examples.EXAMPLES", {})
    monkeypatch.setattr(sys, "argv", ["pixellm", "examples"])
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    with pytest.raises(SystemExit):
        cli.main()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert capsys.readouterr().err == f"OSError: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}\n"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EROFS, "not read-only"), (errno.ENOTDIR, "below directories"), (errno.EACCES, "its permissions")],
)
def test_every_refusal_of_the_system_has_an_advice(monkeypatch, capsys, number, advice):
    def fail():
        raise OSError(number, os.strerror(number), "out.json")

    monkeypatch.setattr("pixellm.imaging.examples.EXAMPLES", type("Examples", (), {"items": staticmethod(fail)}))
    monkeypatch.setattr(sys, "argv", ["pixellm", "examples"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"Error: expected a file or directory that can be used, got out.json: {os.strerror(number)}")
    assert advice in said
