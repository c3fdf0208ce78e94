"""Phrases and spans of an answer, and white space around masks."""

import numpy as np
import pytest
from PIL import Image

from pixellm.imaging.masks import encode
from pixellm.inference.answer_builder import AnswerBuilder, phrase_span

MASK = encode(np.array([[True, False], [True, False]]))


def build(pieces):
    """Pieces of text, None for a mask → the answer, and what the builder gave back for each piece."""
    builder = AnswerBuilder("question", Image.new("RGB", (2, 2)))
    given = [builder.add_target(MASK, 0.75) if piece is None else builder.add_text(piece) for piece in pieces]
    return builder.finish(), given


def pieces_of(text):
    """`[SEG]` → a mask; text as a language model's tokenizer splits it, spaces in front of words."""
    pieces = []
    for index, part in enumerate(text.split("[SEG]")):
        pieces += [None] if index else []
        pieces += [part] if part else []
    return pieces


CASES = {
    "Sure, it is [SEG].": [""],
    "It is [SEG].": [""],
    "[SEG].": [""],
    "[SEG]": [""],
    "The dog [SEG] and the cat [SEG].": ["The dog", "the cat"],
    "The segmentation result of the dog is [SEG]": ["the dog"],
    "The dog is [SEG], the cat is [SEG] and the red apple is [SEG].": ["The dog", "the cat", "the red apple"],
    "Sure, the dog and the cat are [SEG], [SEG].": ["the dog and the cat", ""],
    "They are [SEG], [SEG].": ["", ""],
    "Here is the dog: [SEG].": ["the dog"],
    "I see three things. The dog on the left [SEG] sleeps. The cat [SEG] does not.": ["The dog on the left", "The cat"],
    "Yes, there are two: the dog [SEG]; then the cat [SEG].": ["the dog", "the cat"],
    "A 3.5 m boat [SEG].": ["A 3.5 m boat"],
    "You could sit on the chair on the left [SEG] and the two couches [SEG].": [
        "the chair on the left",
        "the two couches",
    ],
    "The soup could be served in the bowl [SEG]; I see 14 people [SEG].": ["the bowl", "14 people"],
    "The person who is on the left [SEG], the tv that has knobs [SEG].": [
        "The person who is on the left",
        "the tv that has knobs",
    ],
    "You could sit on it [SEG].": ["You could sit on it"],
    "Andrea [SEG] or island [SEG].": ["Andrea", "island"],
    "Use the spoon [SEG] with which soup is eaten; the fork [SEG] is not needed.": ["Use the spoon", "the fork"],
}


@pytest.mark.parametrize(("text", "phrases"), CASES.items())
def test_phrases(text, phrases):
    answer, _ = build(pieces_of(text))
    assert [target.phrase for target in answer.targets] == phrases
    for target in answer.targets:
        assert answer.text[slice(*target.span)] == target.phrase


def test_span_begins_after_the_mask_before():
    assert phrase_span("The dog and the cat", 7) == (12, 19)
    assert phrase_span("The dog and the cat", 0) == (0, 19)
    assert phrase_span("", 0) == (0, 0)
    assert phrase_span("Sure, it is", 0) == (11, 11)


SPACES = {
    "llama style, no space in front": (["The dog", None, "and the cat", None, "."], "The dog and the cat."),
    "spaces in front": (["The", " dog", None, " and", " the", " cat", None, "."], "The dog and the cat."),
    "space before a mask": (["The dog ", None, " and the cat ", None, "."], "The dog and the cat."),
    "space alone before a mask": (["The dog", " ", None, " and the cat", " ", None, "."], "The dog and the cat."),
    "mask first": ([None, "is the dog."], "is the dog."),
    "two masks": (["Both", None, None, "."], "Both."),
    "comma": (["The dog", None, ",", " the cat", None], "The dog, the cat"),
    "comma with a space in front": (["The dog", None, " ,", " the cat", None], "The dog, the cat"),
    "bracket": (["(the dog", None, ")", " barks"], "(the dog) barks"),
    "apostrophe": (["The dog", None, "'s tail", None], "The dog's tail"),
    "a word in two pieces": (["The dog", None, "a", "nd more"], "The dog and more"),
    "space alone after a mask": (["The dog", None, " ", "and more"], "The dog and more"),
    "end": (["The dog", None, ". ", "\n"], "The dog."),
    "inner spaces stay": (["One:\n", "  two", None], "One:\n  two"),
    "only masks": ([None, None], ""),
    "nothing": ([], ""),
}


@pytest.mark.parametrize(("pieces", "text"), SPACES.values(), ids=SPACES)
def test_white_space(pieces, text):
    answer, _ = build(pieces)
    assert answer.text == text
    assert len(answer.targets) == pieces.count(None)
    for target in answer.targets:
        assert answer.text[slice(*target.span)] == target.phrase


@pytest.mark.parametrize(("pieces", "text"), SPACES.values(), ids=SPACES)
def test_what_is_streamed_is_the_text(pieces, text):
    _, given = build(pieces)
    assert "".join(piece for piece in given if isinstance(piece, str)).rstrip() == text


def test_target_reports():
    answer, _ = build(["The dog", None, " and nothing"])
    (target,) = answer.targets
    assert target.area == 2
    assert target.box == (0, 0, 1, 2)
    assert target.rle["size"] == [2, 2]
    report = answer.to_json()
    assert report["text"] == "The dog and nothing"
    assert report["targets"][0]["span"] == [0, 7]
    assert (report["height"], report["width"]) == (2, 2)
