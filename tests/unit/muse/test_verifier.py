"""The second look: what is asked, what a reply means, what is paid, and that a "no" is kept with its reason."""

import asyncio
import json
from dataclasses import replace

import pytest

from pixellm.muse.journal import Journal
from pixellm.muse.vlm.verifier import SCHEMA, Verification, parse, request
from pixellm.utils.openai_client import Completion
from tests.support import muse_cases, trees

RECORDS = muse_cases.records(12)


class Scripted:
    """Stands for a server's client: says no to what it is told to, and stammers once about others."""

    model = "seer"

    def __init__(self, bad=(), unclear=(), fail_after=None) -> None:
        self.bad, self.unclear, self.fail_after = bad, unclear, fail_after
        self.asked, self.now, self.most = [], 0, 0

    async def ask(self, messages, schema) -> Completion:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise ValueError("gone")
        text = messages[1]["content"][1]["text"]
        self.asked.append(text)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        assert schema is SCHEMA
        record_id = next((row.record_id for row in RECORDS if row.question in text), "")
        if record_id in self.unclear:
            return Completion("Well, it depends.", 100, 5, 0.25)
        verdict = {"verdict": "no" if record_id in self.bad else "yes", "reason": "the cup is a bowl"}
        return Completion(f"```json\n{json.dumps(verdict)}\n```", 100, 5, 0.25)


@pytest.fixture
def images(tmp_path):
    for one in RECORDS:
        trees.photograph(tmp_path / "images" / one.image.file_name, (2 * muse_cases.WIDTH, 2 * muse_cases.HEIGHT))
    return tmp_path / "images"


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal", {}) as journal:
        for one in RECORDS:
            journal.finish_image(one.image.image_id, [one])
        yield journal


def look(client: Scripted, journal: Journal, images, in_flight: int = 4) -> Verification:
    looking = Verification(client, journal, images, in_flight)
    asyncio.run(looking.run())
    return looking


def test_a_no_goes_to_the_rejects_and_every_reply_is_paid_once(journal, images) -> None:
    client = Scripted(bad=("3/0", "5/0"), unclear=("7/0",))
    found = look(client, journal, images)
    assert (found.good, found.bad, found.unread) == (9, 2, ["7/0"])
    assert sorted((one.record_id, one.check, one.reason) for one in journal.rejects()) == [
        (name, "verifier", "the cup is a bowl") for name in ("3/0", "5/0")
    ]
    assert len(client.asked) == 13  # the unclear one twice
    assert len(set(client.asked)) == 12
    assert client.most == 4
    assert journal.spent() == (13, 1300, 65, 13 * 0.25)
    again = Scripted()
    assert look(again, journal, images).good == 9
    assert again.asked == []
    first = next(journal.records())
    journal.review(first.record_id, "keep", replace(first, question="Another question about all of this?"))
    assert look(again, journal, images).good == 9
    assert len(again.asked) == 1


def test_nothing_is_lost_when_it_stops(journal, images) -> None:
    found = look(Scripted(bad=("0/0",), fail_after=5), journal, images, in_flight=2)
    assert found.runner.failures == {"gone": 7}
    assert journal.spent()[0] == 5
    client = Scripted()
    assert look(client, journal, images).good == 11
    assert len(client.asked) == 7


def test_what_is_asked(images) -> None:
    one = RECORDS[0]
    system, user = request(one, images)
    picture, words = user["content"]
    assert system["role"] == "system"
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert f"Question: {one.question}" in words["text"]
    assert "{seg}" not in words["text"]
    x, y, width, height = (1.2 * side for side in one.targets[0].box)  # 640 pixels wide, 768 as it is sent
    box = f"[{x:.0f}, {y:.0f}, {x + width:.0f}, {y + height:.0f}]"
    assert f"[1] {one.targets[0].description} ({one.targets[0].category}) at {box}" in words["text"]
    with pytest.raises(ValueError, match="expected an image file"):
        request(one, images / "elsewhere")


@pytest.mark.parametrize(
    ("reply", "good"),
    [
        ('{"verdict": "yes", "reason": "fine"}', True),
        ('{"verdict": " No ", "reason": ""}', False),
        ('{"verdict": "perhaps", "reason": ""}', None),
        ('{"verdict": true}', None),
        ("yes", None),
        ("{yes}", None),
        ("", None),
    ],
)
def test_replies(reply, good) -> None:
    assert parse(reply).good is good
