"""Contact sheets, and which answers an evaluation shows: complete and repeatable."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont

from pixellm.eval.answer_page import choose, is_good, note
from pixellm.eval.matching import MaskPair
from pixellm.eval.overlap import Overlap
from pixellm.eval.protocols import ScoredAnswer
from pixellm.imaging import contact_sheet as cards
from pixellm.imaging.contact_sheet import Card, contact_sheet
from pixellm.types import Answer, Target
from tests.support import cases


def item(text: str, *spans: tuple[int, int], size: tuple[int, int] = (80, 60), good: bool | None = True) -> Card:
    mask = np.zeros(size[::-1], dtype=bool)
    mask[: size[1] // 2] = True
    targets = tuple(Target.of_mask(text[slice(*span)], span, mask, 0.9) for span in spans)
    image = Image.new("RGB", size, "grey")
    return Answer("Segment the cat.", text, targets, size[::-1], image).card("IoU 0.50", good)


def words_of(card: Card):
    return card.text, card.spans


def result(image: int, kind: str = "category", hit: int = 10, named: bool = True) -> ScoredAnswer:
    pairs = (MaskPair(0, 0, Overlap(hit, 20), hit / 20, named),) if kind != "no-target" else ()
    asked = replace(cases.question([], f"{image}/{kind}"), image_id=f"{image}", kind=kind)
    return ScoredAnswer(asked, Answer("", "a", (), (1, 10)), pairs)


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg"])
def test_sheet_is_written(tmp_path, name):
    items = [item("The cat.", (0, 7)), item("Nothing here fits that.", good=False)]
    contact_sheet(items, tmp_path / "new" / name)
    drawn = Image.open(tmp_path / "new" / name)
    assert drawn.size[0] == cards.GAP + 2 * (cards.CARD + cards.GAP)


def test_rows_and_columns(tmp_path):
    sizes = {}
    for count in (1, 4, 5):
        contact_sheet([item("The cat.", (0, 7))] * count, tmp_path / "s.png", columns=4)
        sizes[count] = Image.open(tmp_path / "s.png").size
    assert sizes[1][1] == sizes[4][1] < sizes[5][1]
    assert sizes[1][0] < sizes[4][0] == sizes[5][0]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (900, 2), (2000, 1500)])
def test_odd_pictures(tmp_path, size):
    contact_sheet([item("The cat.", (0, 7), size=size)], tmp_path / "s.png")


def test_odd_answers(tmp_path):
    items = [
        item(""),
        item("", (0, 0)),
        item("cat" * 300, (0, 900)),
        item("a word " * 300, (0, 2000), (2000, 2003)),
        item("cat,cat", (0, 3), (4, 7)),
    ]
    contact_sheet(items, tmp_path / "s.png")


def test_neither_good_nor_bad(tmp_path):
    """Samples of a data set stand first, under no heading."""
    one = item("The cat.", (0, 7))
    plain = item("The cat.", (0, 7), good=None)
    contact_sheet([plain], tmp_path / "plain.png")
    contact_sheet([one], tmp_path / "good.png")
    plain_height, good_height = (Image.open(tmp_path / f"{name}.png").height for name in ("plain", "good"))
    assert good_height - plain_height == cards.HEADING + cards.GAP


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one item"):
        contact_sheet([], tmp_path / "s.png")


def test_words_know_their_targets():
    words = cards._words(*words_of(item("The two cats, and a dog.", (0, 12), (18, 23))))
    assert [(word.text, word.target, word.tail) for word in words] == [
        *(("The", 0, ""), ("two", 0, ""), ("cats", 0, ",")),
        *(("and", None, ""), ("a", 1, ""), ("dog", 1, ".")),
    ]


def test_lines_fit():
    font = ImageFont.load_default(17)
    words = cards._words(*words_of(item("The quick brown fox jumps over the lazy dog " * 9, (0, 19))))
    lines = cards._wrap(words, font, 200)
    assert len(lines) == cards.MAX_LINES
    assert all(sum(word.width(font) for word in line) <= 200 for line in lines)
    assert lines[-1][-1].text == "…"


def test_choice_is_spread_and_repeatable():
    kinds = ("category", "all", "several")
    results = [result(100 * at + k, kind, hit=k) for at, kind in enumerate(kinds) for k in range(21)]
    chosen = choose(results, 9)
    assert chosen == choose(results[::-1], 9)
    assert Counter(r.question.kind for r in chosen) == {"category": 3, "several": 3, "all": 3}
    assert len({r.question.image_id for r in chosen}) == 9
    first = [r.pairs[0].counts.intersection for r in chosen if r.question.kind == "category"]
    assert (first[0], first[-1]) == (20, 0)
    assert len(choose(results, 1000)) == len(results)
    assert choose([], 5) == []


def test_no_photograph_twice_while_there_are_others():
    results = [result(k, kind, hit=k) for kind in ("category", "all", "several") for k in range(21)]
    assert len({r.question.image_id for r in choose(results, 12)}) == 12
    assert len(choose([result(1), result(1, "all")], 2)) == 2


def test_good_needs_the_right_name():
    assert is_good(result(0, hit=20))
    assert not is_good(result(0, hit=20, named=False))
    assert not is_good(result(0, hit=9))
    assert is_good(result(0, "no-target"))
    assert note(result(0, hit=9)) == "IoU 0.45"
