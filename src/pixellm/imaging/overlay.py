"""Draw masks on their image, each in its colour, with its edge and its phrase; or cut their objects out of it."""

import base64
import io
import warnings
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor, ImageFont

from pixellm.imaging import labels, masks
from pixellm.imaging.masks import Rle

if TYPE_CHECKING:
    from supervision import Detections

# Distinct with any colour vision: Okabe and Ito, "Color Universal Design" (2008), without its black, then four of
# Paul Tol's "muted" scheme (SRON/EPS/TN/09-002). Neighbours differ in lightness as well.
COLOURS = (
    *("#E69F00", "#0072B2", "#F0E442", "#D55E00", "#56B4E9", "#009E73", "#CC79A7"),
    *("#332288", "#DDCC77", "#882255", "#44AA99"),
)
OPACITY = 0.45
# Shares of sqrt(height · width): legible at any size of display. The minimum is in pixels.
FONT_SHARE, MIN_FONT_SIZE = 0.038, 12
LINE_SHARE = 0.003
WHITE_EDGE = 1.5  # pixels on either side of an edge
LABEL_SHARE = 0.6  # of the width: longer phrases are cut short
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def colour_of(index: int) -> str:
    """Return the colour of target `index` as #RRGGBB; the colours repeat after the last."""
    return COLOURS[index % len(COLOURS)]


def ink_on(index: int) -> str:
    """Return black or white, whichever is legible on `colour_of(index)`."""
    red, green, blue = (int(colour_of(index)[at : at + 2], 16) for at in (1, 3, 5))
    # Perceived lightness, ITU-R BT.601; 140 by eye on these colours.
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#FFFFFF"


def html(
    question: str,
    text: str,
    image: Image.Image,
    rles: Sequence[Rle],
    phrases: Sequence[str],
    spans: Sequence[tuple[int, int]],
) -> str:
    """Return an answer as one piece of HTML that needs nothing else: question, image, text with coloured phrases."""
    buffer = io.BytesIO()
    draw(image, rles, phrases).save(buffer, "JPEG", quality=90)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    parts, end = [], 0
    for index, (start, stop) in enumerate(spans):
        style = f"background:{colour_of(index)};color:{ink_on(index)};border-radius:3px;padding:0 3px"
        parts += [escape(text[end:start]), f'<mark style="{style}">{escape(text[start:stop])}</mark>']
        end = stop
    marked = "".join((*parts, escape(text[end:])))
    return (
        f'<figure style="margin:0"><figcaption>{escape(question)}</figcaption>'
        f'<img src="{source}" alt="{escape(text)}" style="max-width:100%"><p>{marked}</p></figure>'
    )


def draw(image: Image.Image, rles: Sequence[Rle], phrases: Sequence[str]) -> Image.Image:
    """Return a copy in RGB with every mask that has a pixel in the colour of its index, and its phrase beside it."""
    image = image.convert("RGB")
    filled = {index: rle for index, rle in enumerate(rles) if masks.area(rle)}
    if not filled:
        return image
    line = max(1, round(LINE_SHARE * _side(image)))
    edged = min(image.size) >= 16 * line  # an image of a few pixels would be all edge
    scene, edges = image.copy(), {}
    for index in sorted(filled, key=lambda index: (-masks.area(filled[index]), -index)):  # small masks on large ones
        mask, box = _cut(filled[index])
        scene.paste(_tinted(image.crop(box), colour_of(index)), box[:2], Image.fromarray(mask))
        if edged:
            edges[index] = (masks.encode(_outline(mask)), box)
    _draw_edges(scene, edges, line)
    _label(scene, filled, phrases)
    return scene


def cut_out(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """Return the masked part of an image, RGBA of the mask's box; the mask, bool (H, W), is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = image.convert("RGB")
    cut.putalpha(Image.fromarray(mask).convert("L"))
    return cut.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def supervision() -> Any:
    """Return the package supervision, imported without its advice to install OpenCV; drawing needs none of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
        import supervision as sv
    return sv


def detections(rles: Sequence[Rle], phrases: Sequence[str], scores: Sequence[float | None]) -> "Detections":
    """Return masks for supervision: `class_id` is a mask's index, `data["class_name"]` its phrase.

    `confidence` is None unless all have a score.
    """
    sv = supervision()
    if not rles:
        return sv.Detections.empty()
    stack = np.empty((len(rles), *rles[0]["size"]), dtype=bool)
    for row, rle in zip(stack, rles, strict=True):
        row[:] = masks.decode(rle, *rle["size"])
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(stack).astype(np.float32),
        mask=stack,
        confidence=None if None in scores else np.array(scores, dtype=np.float32),
        class_id=np.arange(len(rles)),
        data={"class_name": np.array(phrases)},
    )


def _cut(rle: Rle) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Return a mask that has a pixel within its box, and the box: left, top, right, bottom."""
    x, y, width, height = masks.box(rle)
    return masks.decode(rle, *rle["size"])[y : y + height, x : x + width], (x, y, x + width, y + height)


def _tinted(image: Image.Image, colour: str) -> Image.Image:
    tints = ImageColor.getrgb(colour)
    return image.point([round(OPACITY * tint + (1 - OPACITY) * value) for tint in tints for value in range(256)])


def _outline(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a bool (H, W) mask that have a neighbour outside, above, below, left or right."""
    closed = np.pad(mask, 1)
    return mask & ~(closed[:-2, 1:-1] & closed[2:, 1:-1] & closed[1:-1, :-2] & closed[1:-1, 2:])


def _draw_edges(scene: Image.Image, edges: dict[int, tuple[Rle, Box]], line: int) -> None:
    """Draw the edge of each target, `line` pixels wide; white below the colour shows on every ground.

    `edges`: by index the outline within the mask's box, as RLE, and the box.
    """
    for white in (True, False):
        for index in sorted(edges):
            rle, (left, top, _, _) = edges[index]
            radius = line / 2 + (WHITE_EDGE if white else 0)
            margin = int(radius)
            stroke = _thicken(np.pad(masks.decode(rle, *rle["size"]), margin), radius)
            colour = "#FFFFFF" if white else colour_of(index)
            scene.paste(colour, (left - margin, top - margin), Image.fromarray(stroke))


def _thicken(outline: np.ndarray, radius: float) -> np.ndarray:
    """Return the pixels at most `radius` from those of a bool (H, W) line."""
    reach = int(radius)
    thick = np.zeros_like(outline)
    # The disc row by row: the line is widened to a row's length, from the shortest, and shifted there.
    spans = {dy: int(max(0.0, radius**2 - dy**2) ** 0.5) for dy in range(reach + 1)}
    row, half = outline.copy(), 0
    for dy in sorted(spans, key=lambda dy: spans[dy]):
        while half < spans[dy]:
            half += 1
            row[:, half:] |= outline[:, :-half]
            row[:, :-half] |= outline[:, half:]
        thick[dy:] |= row[: len(row) - dy]
        thick[: len(row) - dy] |= row[dy:]
    return thick


def _label(scene: Image.Image, filled: dict[int, Rle], phrases: Sequence[str]) -> None:
    """Write each phrase on its mask where there is room, otherwise just above it."""
    size = max(MIN_FONT_SIZE, round(FONT_SHARE * _side(scene)))
    padding = max(2, size // 4)
    font = ImageFont.load_default(size)
    room = LABEL_SHARE * scene.width - 2 * padding
    texts = {index: shorten(" ".join(phrases[index].split()), font, room) for index in filled}
    texts = {index: text for index, text in texts.items() if text}
    if not texts or scene.height < 3 * size:
        return
    anchors = {
        index: labels.anchor(masks.decode(filled[index], *filled[index]["size"]), size + 2 * padding) for index in texts
    }
    written = [labels.Label(text, anchors[index], colour_of(index), ink_on(index)) for index, text in texts.items()]
    labels.draw(scene, written, font, padding)


def shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Shorten a text to at most `width` pixels with an ellipsis; "" if not even that fits."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)  # the first `low` characters fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        fits = font.getlength(text[:middle].rstrip() + "…") <= width
        low, high = (middle, high) if fits else (low, middle)
    return text[:low].rstrip() + "…" if low else ""


def _side(image: Image.Image) -> float:
    return (image.width * image.height) ** 0.5
