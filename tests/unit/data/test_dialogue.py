"""LLaVA-Instruct-150k in its published layout."""

import pytest

from pixellm.data.catalogue import open_data
from tests.support import trees


def entry(*texts: str, **more) -> dict:
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": "000000033471", "image": "000000033471.jpg", "conversations": turns, **more}


def write(root, *entries) -> None:
    trees.write_json(root / "llava_dataset/llava_instruct_150k.json", list(entries))


def test_turns_of_a_dialogue(tmp_path) -> None:
    write(tmp_path, entry("<image>\nWhat is it?", "A bus.", "What colour?\n<image>", "Red, {really}."))
    (record,) = open_data("llava_instruct_150k", tmp_path)
    assert record.dialogue
    assert record.image == tmp_path / "coco/train2017/000000033471.jpg"
    turns = [(exchange.question, exchange.answer) for exchange in record.exchanges]
    assert turns == [("What is it?", "A bus."), ("What colour?", "Red, {really}.")]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry("only a question"), "one after the other"),
        (entry(), "one after the other"),
        ({"id": "1", "conversations": entry("q", "a")["conversations"]}, "no field 'image'"),
        (entry("q", "a", conversations=[{"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}]), "one after"),
        (entry("q", "a", conversations=[{"from": "human"}, {"from": "gpt"}]), "no field 'value'"),
        ("text", ""),
    ],
)
def test_bad_dialogues_are_left_out(tmp_path, bad, reason) -> None:
    write(tmp_path, entry("q", "a"), bad)
    data = open_data("llava_instruct_150k", tmp_path, max_bad_fraction=0.5)
    assert len(data) == 1
    assert reason in data.bad[0].reason
