"""The journal of a generation: whole or not at all, once, and one process at a time."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from pixellm.muse.journal import FILE, Journal, Reject
from pixellm.muse.records import MuseImage, MuseRecord, MuseTarget, Provenance
from pixellm.utils.openai_client import Completion

SETTINGS = {"model": "m", "seed": 0}


def record(number: int, image_id: int = 1) -> MuseRecord:
    target = MuseTarget(7, "hot dog", "the hot dog on the left", [[1, 1, 5, 1, 5, 5]], (1.0, 1.0, 4.0, 4.0), 16.0)
    targets = (target, replace(target, annotation_id=8, category="cup", description="the blue cup"))
    image = MuseImage(image_id, "ä.jpg", 20, 30)
    text = "Take the hot dog on the left {seg} and the blue cup {seg}."
    return MuseRecord(
        f"{image_id}/{number}", image, "Lunch?", text, targets, Provenance("server", "m", "boxes@1", False)
    )


def test_json_round_trip() -> None:
    one = record(0)
    assert MuseRecord.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.slots == 2


def test_what_was_saved_is_there(tmp_path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.save_reply("k", Completion("reply", 10, 5, 0.25))
        journal.finish_image(1, [record(0), record(1)], [Reject("1/2", {"question": "?"}, "schema", "no answer")])
        journal.finish_image(2, reason="fewer than two things")
    with Journal(tmp_path, SETTINGS) as journal:
        assert journal.reply("k") == Completion("reply", 10, 5, 0.25)
        assert journal.reply("other") is None
        assert all(map(journal.is_done, (1, 2)))
        assert not journal.is_done(3)
        assert list(journal.records()) == [record(0), record(1)]
        assert [one.check for one in journal.rejects()] == ["schema"]
        assert journal.counts() == {"skipped": {"fewer than two things": 1}, "left_out": {}, "rejected": {"schema": 1}}
        assert journal.spent() == (1, 10, 5, 0.25)


def test_reviews(tmp_path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.finish_image(1, [record(0), record(1)])
        journal.review("1/0", "reject")
        edited = replace(record(1), question="What is for lunch?")
        journal.review("1/1", "keep", edited)
        with pytest.raises(ValueError, match="expected a record of the journal"):
            journal.review("9/9", "keep")
    with Journal(tmp_path) as journal:
        assert list(journal.records()) == [edited]
        assert list(journal.records(reviewed=False)) == [record(0), record(1)]
        assert journal.reviews() == {"1/0": "reject", "1/1": "keep"}
        assert journal.record_ids() == ["1/0", "1/1"]
        assert journal.record("1/0") == record(0)
        assert [journal.record("1/1", reviewed) for reviewed in (True, False)] == [edited, record(1)]
        with pytest.raises(ValueError, match="expected a record of the journal"):
            journal.record("9/9")
        journal.review("1/0", "keep")
        assert list(journal.records()) == [record(0), edited]
        journal.withdraw("1/1")
        assert list(journal.records()) == [record(0), record(1)]
        assert journal.reviews() == {"1/0": "keep"}


def test_an_image_is_finished_once_and_whole(tmp_path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.finish_image(1, [record(0)])
        with pytest.raises(Exception, match="UNIQUE"):
            journal.finish_image(2, [record(1, 2), record(0)])  # 1/0 is there already
        assert journal.is_done(1)
        assert not journal.is_done(2)
        assert list(journal.records()) == [record(0)]


def test_one_process_and_one_kind_of_generation(tmp_path) -> None:
    with Journal(tmp_path, SETTINGS):
        code = f"from pathlib import Path; from pixellm.muse.journal import Journal; Journal(Path({str(tmp_path)!r}))"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "expected to work on" in other.stderr
    with pytest.raises(ValueError, match=r"generation of other settings \(seed: 0, now 1\)"):
        Journal(tmp_path, SETTINGS | {"seed": 1})
    with Journal(tmp_path, SETTINGS):
        pass
    with pytest.raises(ValueError, match="expected the output of `pixellm muse generate`"):
        Journal(tmp_path / "nothing")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / FILE).write_text("not a database, but long enough to look at" * 50)
    with pytest.raises(ValueError, match="expected a journal"):
        Journal(tmp_path / "broken", SETTINGS)


def test_killed_at_any_moment(tmp_path) -> None:
    """What a killed process said it had saved is there, and its lock is gone."""
    code = f"""
from pathlib import Path
from pixellm.muse.journal import Journal
from pixellm.utils.openai_client import Completion
with Journal(Path({str(tmp_path)!r}), {SETTINGS!r}) as journal:
    for number in range(100000):
        journal.save_reply(str(number), Completion("reply", 1, 1, 0.5))
        print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(40)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Journal(tmp_path, SETTINGS) as journal:
        assert all(journal.reply(str(number)) for number in said)
        calls, _, _, cost = journal.spent()
        assert calls >= len(said)
        assert cost == 0.5 * calls
