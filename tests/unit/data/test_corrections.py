"""Corrections on disk: what a line teaches and says, replacement, several writers, kills, a full folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixellm.data.catalogue import open_data
from pixellm.data.corrections import Correction, CorrectionStore
from pixellm.data.jsonl import read_jsonl
from pixellm.eval.data_check import check
from pixellm.imaging import masks
from tests.support.colours import flag, mask_of

WRITER = """
import sys
from pathlib import Path
from PIL import Image
from pixellm.data.corrections import Correction, CorrectionStore
from pixellm.imaging import masks
import numpy as np
store, first, count = CorrectionStore(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for number in range(first, first + count):
    mask = np.zeros((30, 40), dtype=bool)
    mask[: number % 30 + 1] = True
    image = Image.new("RGB", (40, 30), (number % 7, 0, 0))
    store.add(image, Correction(f"thing {number}", masks.encode(mask)))
    print(number, flush=True)
"""


def rows(store: CorrectionStore) -> list[dict]:
    return [json.loads(line) for line in store.file.read_text(encoding="utf-8").splitlines()]


def red(**fields) -> Correction:
    return Correction(**{"phrase": "the red", "mask": masks.encode(mask_of(flag(), "red")), **fields})


def test_a_line_teaches_the_corrected_mask(tmp_path):
    before = mask_of(flag(), "red")
    before[:2] = False  # lacks 2 × 20 pixels
    before[-1] = True  # has 40 too many
    store = CorrectionStore(tmp_path / "new/folder")
    fields = {"model": "mini", "checkpoint": "runs/1/model", "tool": "page", "user": "ann", "answer": "It is the red."}
    stored = store.add(flag(), red(before=masks.encode(before), **fields))
    (row,) = rows(store)
    assert (row["question"], row["answer"]) == ("Segment the red.", "The red {seg}.")
    assert np.array_equal(masks.decode(row["masks"][0], 30, 40), mask_of(flag(), "red"))
    assert (row["id"], stored.replaced) == (stored.id, False)
    origin = row["correction"]
    assert {name: origin[name] for name in fields} == fields
    assert (origin["phrase"], origin["added"], origin["removed"]) == ("the red", 40, 40)
    assert np.array_equal(masks.decode(origin["before"], 30, 40), before)
    assert origin["time"].endswith("+00:00")
    with Image.open(store.folder / row["image"]) as kept:
        assert np.array_equal(np.asarray(kept), np.asarray(flag()))


def test_training_and_checks_read_the_file(tmp_path):
    store = CorrectionStore(tmp_path)
    empty = masks.empty(30, 40)
    store.add(flag(), red(question="What is like blood?"))
    store.add(flag(), Correction("A Dog", empty, before=masks.encode(mask_of(flag(), "green"))))
    (record,) = read_jsonl(store.file, max_bad_fraction=0.0)
    texts = [(exchange.question, exchange.answer) for exchange in record.exchanges]
    assert texts == [
        ("What is like blood?", "The red {seg}."),
        ("Segment the dog.", "There is no dog here."),
    ]
    opened = open_data(str(store.file), tmp_path)
    counts = check(opened, range(len(opened)))
    assert (counts.images, counts.questions, counts.masks, counts.bad) == (1, 2, 1, [])
    assert rows(store)[1]["correction"]["removed"] == mask_of(flag(), "green").sum()


def test_the_latest_of_an_image_and_phrase_stays(tmp_path):
    store = CorrectionStore(tmp_path)
    first = store.add(flag(), red(user="ann"))
    other = store.add(flag(), Correction("green", masks.encode(mask_of(flag(), "green"))))
    again = store.add(flag(), red(phrase="Red", user="bob"))
    assert (first.replaced, other.replaced, again.replaced) == (False, False, True)
    assert [row["correction"].get("user") for row in rows(store)] == [None, "bob"]
    assert first.image == other.image == again.image
    smaller = flag(20, 15)
    assert not store.add(smaller, Correction("red", masks.encode(mask_of(smaller, "red")))).replaced
    assert len(list((tmp_path / "images").iterdir())) == 2
    # One key neither replaces the corrections of another nor learns that there are any.
    assert not store.add(flag(), red(owner="key")).replaced
    assert len(rows(store)) == 4


def test_lines_of_others_stay(tmp_path):
    store = CorrectionStore(tmp_path)
    stored = store.add(flag(), red())
    by_hand = b"not JSON with " + stored.id.encode()  # and without an end of line
    store.file.write_bytes(store.file.read_bytes() + by_hand)
    assert store.add(flag(), red()).replaced
    lines = store.file.read_bytes().split(b"\n")
    assert (lines[0], len(lines), lines[-1]) == (by_hand, 3, b"")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"phrase": " "}, "empty"),
        ({"phrase": "a {seg}"}, "without {seg}"),
        ({"mask": {"size": [30, 40], "counts": "x"}}, "counts"),
        ({"before": masks.empty(40, 30)}, "mask of 30×40"),
        ({"user": "\ud800"}, "surrogate"),
    ],
)
def test_what_is_no_correction(fields, message):
    with pytest.raises(ValueError, match=message):
        red(**fields)


def test_a_mask_of_another_image(tmp_path):
    with pytest.raises(ValueError, match="expected a mask of 15×20"):
        CorrectionStore(tmp_path).add(flag(20, 15), red())
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder(tmp_path):
    store = CorrectionStore(tmp_path, max_bytes=2500)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    store.add(flag(), red())
    before = store.file.read_bytes()
    with pytest.raises(OSError, match="2,500"):
        store.add(noise, red())
    assert store.file.read_bytes() == before
    assert len(list((tmp_path / "images").iterdir())) == 1


def writer(folder: Path, first: int, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_write_at_once(tmp_path):
    processes = [writer(tmp_path, first, 15) for first in (0, 15)]
    assert [process.wait(60) for process in processes] == [0, 0]
    found = sorted(int(row["correction"]["phrase"].split()[1]) for row in rows(CorrectionStore(tmp_path)))
    assert found == list(range(30))
    assert len(read_jsonl(tmp_path / "corrections.jsonl", 0.0)) == 7
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path):
    for attempt in range(2):
        process = writer(tmp_path, 1000 * attempt, 1000)
        first = process.stdout.readline()
        time.sleep(0.05 + 0.07 * attempt)
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in [first, *process.stdout]]
        process.wait()
        store = CorrectionStore(tmp_path)
        kept = {int(row["correction"]["phrase"].split()[1]) for row in rows(store)}
        assert set(reported) <= kept
    store.add(flag(), red())  # the next writer finds no lock, and clears what is left
    assert [path for path in tmp_path.rglob(".*") if not path.name.endswith(".lock")] == []
    assert not check(open_data(str(store.file), tmp_path), range(7)).bad
