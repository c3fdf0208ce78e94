"""Contact sheet: answers side by side, each on a card with its image, question, text and masks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixellm.imaging import masks, overlay
from pixellm.imaging.masks import Rle
from pixellm.utils.files import atomic_write

CARD, IMAGE_HEIGHT = 440, 330  # width of a card and height of its image, in pixels
GAP, PADDING = 24, 12  # between and inside cards, in pixels
TEXT, HEADING, LINE = 17, 30, 1.45  # font sizes in pixels, line height as a multiple
PAPER, WHITE, INK, GREY, GROUND = "#F3F3F0", "#FFFFFF", "#1A1A1A", "#6B6B6B", "#E6E6E2"
GOOD, BAD, NEUTRAL = "#1B7837", "#B2182B", "#4D4D4D"
MAX_LINES = 6  # of an answer
SPACE = 1.6  # between words, as a multiple of the font's, for the coloured bands
BAND = 3  # pixels that a band is wider than its words, on each side
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Card:
    """An answer on a sheet, see `pixellm.types.Answer.card`.

    Args:
        image: the image.
        question: the question.
        text: text of the answer.
        phrases, spans, rles: each mask with its phrase and its (start, end) in the text.
        note: note in the corner, such as "IoU 0.83".
        good: heading that the card is under; None: first, under none.
    """

    image: Image.Image
    question: str
    text: str
    phrases: Sequence[str]
    spans: Sequence[tuple[int, int]]
    rles: Sequence[Rle]
    note: str
    good: bool | None = None


@dataclass(frozen=True)
class _Word:
    """Word of an answer, with the index of the target whose phrase it is part of, and the punctuation behind it."""

    text: str
    target: int | None = None
    tail: str = ""

    def width(self, font: Font) -> float:
        return font.getlength(self.text) + (font.getlength(self.tail) + BAND if self.tail else 0)


def contact_sheet(items: Sequence[Card], path: Path, columns: int = 4) -> None:
    """Write a PNG or JPEG (by suffix) of all items: first those that are neither good nor bad, then the good ones.

    Raises:
        ValueError: no items, or no column.
    """
    if not items or columns < 1:
        raise ValueError(f"expected at least one item and one column, got {len(items)} and {columns}.")
    columns = min(columns, len(items))
    width = GAP + columns * (CARD + GAP)
    sections: list[tuple[str, str, list[list[Image.Image]]]] = []
    for heading, colour, good in (("", PAPER, None), ("good", GOOD, True), ("bad", BAD, False)):
        cards = [_drawn(item) for item in items if item.good is good]
        rows = [cards[at : at + columns] for at in range(0, len(cards), columns)]
        if rows:
            sections.append((heading, colour, rows))
    bands = {heading: GAP + HEADING + GAP if heading else GAP for heading, _, _ in sections}
    height = GAP + sum(bands[heading] + sum(_row_height(row) + GAP for row in rows) for heading, _, rows in sections)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, y = ImageDraw.Draw(sheet), 0
    for heading, colour, rows in sections:
        draw.rectangle((GAP, y + GAP, GAP + 8, y + GAP + HEADING), fill=colour)
        draw.text((GAP + 22, y + GAP + HEADING / 2), heading, INK, _font(HEADING), anchor="lm")
        y += bands[heading]
        for row in rows:
            for column, card in enumerate(row):
                frame = Image.new("RGB", (CARD, _row_height(row)), WHITE)  # all cards of a row end together
                frame.paste(card)
                sheet.paste(frame, (GAP + column * (CARD + GAP), y))
            y += _row_height(row) + GAP
    with atomic_write(Path(path)) as temporary:
        sheet.save(temporary, quality=90, optimize=True)


def _row_height(row: Sequence[Image.Image]) -> int:
    return max(card.height for card in row)


def _drawn(card: Card) -> Image.Image:
    font = _font(TEXT)
    room = CARD - 2 * PADDING
    question = _wrap([_Word(word) for word in card.question.split()], font, room)
    answer = _wrap(_words(card.text, card.spans), font, room) or [[_Word("(no text)")]]
    step = round(TEXT * LINE)
    height = IMAGE_HEIGHT + 2 * PADDING + step * (len(question) + len(answer)) + PADDING // 2
    drawn = Image.new("RGB", (CARD, height), WHITE)
    drawn.paste(_image(card), (0, 0))
    draw, y = ImageDraw.Draw(drawn), IMAGE_HEIGHT + PADDING
    for lines, colour in ((question, GREY), (answer, INK)):
        for line in lines:
            _write_line(draw, line, y, colour, font)
            y += step
        y += PADDING // 2
    return drawn


def _image(card: Card) -> Image.Image:
    """Fit the overlay into the upper part of a card, with the note in its corner."""
    drawn = _fitted(card)
    canvas = Image.new("RGB", (CARD, IMAGE_HEIGHT), GROUND)
    canvas.paste(drawn, ((CARD - drawn.width) // 2, (IMAGE_HEIGHT - drawn.height) // 2))
    draw, font = ImageDraw.Draw(canvas), _font(TEXT)
    wide = font.getlength(card.note) + 2 * PADDING
    draw.rectangle(
        (CARD - wide, 0, CARD, TEXT + PADDING), fill=NEUTRAL if card.good is None else GOOD if card.good else BAD
    )
    draw.text((CARD - wide / 2, (TEXT + PADDING) / 2), card.note, WHITE, font, anchor="mm")
    return canvas


def _fitted(card: Card) -> Image.Image:
    """Draw the overlay at its size on the sheet, so that labels and edges stay sharp."""
    image = card.image
    scale = min(CARD / image.width, IMAGE_HEIGHT / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    rles = [masks.encode(_resized(masks.decode(rle, *rle["size"]), size)) for rle in card.rles]
    return overlay.draw(image.convert("RGB").resize(size), rles, card.phrases)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _words(text: str, spans: Sequence[tuple[int, int]]) -> list[_Word]:
    """Split the text into words, each with its target; a mask without a phrase gets its number."""
    words, at = [], 0
    for index, (start, end) in enumerate(spans):
        words += [_Word(word) for word in text[at:start].split()]
        words += [_Word(word, index) for word in text[start:end].split() or [f"({index + 1})"]]
        at = max(at, end)
        tail = re.match(r"[^\w\s]+", text[at:])
        if tail:
            words[-1] = _Word(words[-1].text, index, tail[0])
            at += tail.end()
    return words + [_Word(word) for word in text[at:].split()]


def _wrap(words: Sequence[_Word], font: Font, width: float) -> list[list[_Word]]:
    """Break into at most `MAX_LINES` lines of at most `width` pixels; longer words are shortened."""
    space = SPACE * font.getlength(" ")
    lines: list[list[_Word]] = []
    used = width
    for word in words:
        word = _Word(overlay.shorten(word.text, font, width - font.getlength(word.tail)), word.target, word.tail)
        needed = word.width(font)
        if not lines or used + space + needed > width:
            lines.append([])
            used = -space
        lines[-1].append(word)
        used += space + needed
    if len(lines) > MAX_LINES:
        lines = lines[:MAX_LINES]
        lines[-1][-1] = _Word("…")
    return lines


def _write_line(draw: ImageDraw.ImageDraw, line: Sequence[_Word], y: float, colour: str, font: Font) -> None:
    """Write a line; phrases are on a band of their mask's colour, as yellow letters on white are illegible."""
    space, middle = SPACE * font.getlength(" "), y + TEXT * LINE / 2
    starts = list(accumulate((word.width(font) + space for word in line), initial=float(PADDING)))
    for target, run in groupby(range(len(line)), key=lambda at: line[at].target):
        run = list(run)
        end = starts[run[-1]] + font.getlength(line[run[-1]].text)
        if target is not None:
            box = (starts[run[0]] - BAND, middle - TEXT * 0.62, end + BAND, middle + TEXT * 0.62)
            draw.rounded_rectangle(box, 4, fill=overlay.colour_of(target))
            draw.text((end + BAND + 1, middle), line[run[-1]].tail, colour, font, anchor="lm")
        for at in run:
            ink = colour if target is None else overlay.ink_on(target)
            draw.text((starts[at], middle), line[at].text, ink, font, anchor="lm")


def _font(size: int) -> Font:
    """Return Pillow's own font, the same on every machine."""
    return ImageFont.load_default(size)
