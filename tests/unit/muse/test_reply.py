"""From a scene to messages, and from a server's reply to records."""

import asyncio
import base64
import io
import json

import pytest
from PIL import Image

from pixellm.muse.prompts import VERSIONS, Prompt
from pixellm.muse.records import ImageAnnotations, MuseImage, MuseTarget, Provenance
from pixellm.muse.vlm.engine import VlmEngine
from pixellm.muse.vlm.reply import parse_reply
from pixellm.utils.openai_client import Completion

MADE = Provenance("server", "m", "boxes@1", synthetic=False)
BOX = (10.0, 20.0, 30.0, 40.0)


def thing(number: int, category: str) -> MuseTarget:
    return MuseTarget(number, category, "", [[10, 20, 40, 20, 40, 60, 10, 60]], BOX, 1200.0)


SCENE = ImageAnnotations(
    MuseImage(5, "5.jpg", 480, 640),
    (thing(11, "cup"), thing(12, "cup"), thing(13, "dining table")),
    captions=("A table with two cups.",),
)
GOOD = {
    "objects": [3, 1],
    "question": " What do I need to have a break? ",
    "answer": "Sit at [the wooden table](3) with [the white mug](1); [the table] (3) is free.",
}


def reply(*pairs: object) -> str:
    return json.dumps({"pairs": pairs})


def test_a_reply_becomes_records() -> None:
    found = parse_reply(f"<think>{{}}</think>Here:\n```json\n{reply(GOOD)}\n```", SCENE, MADE)
    (record,) = found.records
    assert record.record_id == "5/1"
    assert record.question == "What do I need to have a break?"
    assert record.text == "Sit at the wooden table {seg} with the white mug {seg}; the table is free."
    assert [(one.annotation_id, one.category, one.description) for one in record.targets] == [
        (13, "dining table", "the wooden table"),
        (11, "cup", "the white mug"),
    ]
    assert record.targets[0].box == BOX
    assert found.rejects == ()
    assert found.complaint is None


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (GOOD | {"objects": [1]}, r"the answer marks the objects \[1, 3\], but the pair is about \[1\]"),
        (GOOD | {"objects": [1, 3, 9]}, r"there are no objects \[9\]"),
        (GOOD | {"answer": "Take [the mug](0)."}, r"there are no objects \[0\]"),
        (GOOD | {"answer": "Take a mug."}, r"marks the objects \[\]"),
        (GOOD | {"objects": "1, 3"}, "no list of numbers"),
        (GOOD | {"objects": [True, 3]}, "no list of numbers"),
        ({"objects": [1]}, "lacks its question or its answer"),
        ("a pair", "lacks its question or its answer"),
    ],
)
def test_a_wrong_pair_is_rejected_alone(pair, reason) -> None:
    found = parse_reply(reply(pair, GOOD), SCENE, MADE)
    assert [one.record_id for one in found.records] == ["5/2"]
    (reject,) = found.rejects
    assert reject.check == "objects"
    json.dumps(reject.body)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(reject.reason)
    assert parse_reply(reply(pair), SCENE, MADE).complaint


@pytest.mark.parametrize(
    "text", ["", "I can't help with that.", "[1, 2]", '{"pairs": 3}', '{"pairs": []}', '{"pairs": [']
)
def test_a_reply_that_is_none(text) -> None:
    found = parse_reply(text, SCENE, MADE)
    assert found.records == ()
    assert [one.check for one in found.rejects] == ["reply"]
    assert found.rejects[0].body == {"reply": text}
    assert found.complaint


def test_a_refusal_is_none_that_could_be_mended() -> None:
    found = parse_reply(json.dumps({"refusal": "I can't."}), SCENE, MADE)
    assert [(one.check, one.reason) for one in found.rejects] == [("refusal", "the model refuses: I can't.")]
    assert found.complaint is None


@pytest.fixture
def images(tmp_path):
    Image.new("RGB", (640, 480), "red").save(tmp_path / "5.jpg")
    return tmp_path


@pytest.mark.parametrize("variant", VERSIONS)
def test_messages(variant, images) -> None:
    prompt = Prompt(variant)
    system, user = prompt.messages(SCENE, images, 4)
    text = user["content"][-1]["text"]
    assert "1. cup at [10, 20, 40, 60]\n2. cup at [10, 20, 40, 60]\n3. dining table at [10, 20, 40, 60]" in text
    assert "640 pixels wide and 480 high" in text
    assert " 4 pairs" in system["content"].replace("\n", " ")
    assert "$" not in system["content"] + text
    assert prompt.parts[2] in system["content"]
    assert set(json.loads(prompt.parts[2])) == set(prompt.schema["required"])
    assert ("A table with two cups." in text) == (variant == "captions")
    parts = [part for part in user["content"] if part["type"] == "image_url"]
    assert len(parts) == (variant != "captions")
    if parts:
        data = base64.b64decode(parts[0]["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
        assert data == (images / "5.jpg").read_bytes()


def test_large_photographs_are_made_smaller_and_boxes_with_them(images) -> None:
    Image.new("RGB", (1536, 1152), "red").save(images / "5.jpg")
    content = Prompt("boxes").messages(SCENE, images, 4)[1]["content"]
    data = base64.b64decode(content[0]["image_url"]["url"].split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (768, 576)
    assert "768 pixels wide and 576 high" in content[1]["text"]
    assert "1. cup at [12, 24, 48, 72]" in content[1]["text"]  # of 640 to 768 pixels


def test_what_can_not_be_sent(images) -> None:
    with pytest.raises(ValueError, match="expected a prompt of boxes, captions, describe, got 'none'"):
        Prompt("none")
    with pytest.raises(ValueError, match="expected captions"):
        Prompt("captions").messages(ImageAnnotations(SCENE.image, SCENE.instances), images, 4)
    Image.new("RGB", (480, 640)).save(images / "5.jpg")
    with pytest.raises(ValueError, match="expected 640 x 480 pixels, or that shape"):
        Prompt("boxes").messages(SCENE, images, 4)
    (images / "5.jpg").write_bytes(b"no photograph")
    with pytest.raises(ValueError, match=r"5\.jpg"):
        Prompt("boxes").messages(SCENE, images, 4)


class Client:
    """Answers from a list; keeps what it was asked."""

    model = "m"

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = list(replies), []

    async def ask(self, messages: list, schema: dict) -> Completion:
        self.asked.append((list(messages), schema))
        return Completion(self.replies.pop(0), 10, 5, 0.5)


class Cache:
    def __init__(self) -> None:
        self.kept: dict[str, Completion] = {}

    async def get(self, key: str) -> Completion | None:
        return self.kept.get(key)

    async def put(self, key: str, reply: Completion) -> None:
        assert key not in self.kept
        self.kept[key] = reply


def ask(client: Client, cache: Cache, images):
    return asyncio.run(VlmEngine(client, cache, Prompt("boxes"), images, 3).ask(SCENE))


def test_one_request_that_is_paid_once(images) -> None:
    client, cache = Client(reply(GOOD)), Cache()
    made = ask(client, cache, images)
    assert [one.question for one in made.records] == ["What do I need to have a break?"]
    assert made.records[0].provenance == MADE
    assert ask(client, cache, images) == made  # from what was kept: the client has no further reply
    assert len(client.asked) == 1


def test_a_reply_that_can_not_be_used_is_mended_once(images) -> None:
    bad = GOOD | {"objects": [1]}
    client, cache = Client(reply(bad), reply(GOOD)), Cache()
    made = ask(client, cache, images)
    assert len(made.records) == 1
    assert [one.check for one in made.rejects] == ["objects"]
    assert len(cache.kept) == 2
    (first, _), (second, _) = client.asked
    assert second[:2] == first
    assert second[2] == {"role": "assistant", "content": reply(bad)}
    assert "The answer marks the objects [1, 3], but the pair is about [1]." in second[3]["content"]
    client = Client("no", "no")
    made = ask(client, Cache(), images)
    assert made.records == ()
    assert [one.check for one in made.rejects] == ["reply", "reply"]


def test_what_can_be_used_is_not_asked_for_again(images) -> None:
    client = Client(reply(GOOD, "no pair"))
    made = ask(client, Cache(), images)
    assert len(made.records) == len(made.rejects) == len(client.asked) == 1
