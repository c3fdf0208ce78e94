"""Drawing answers: masks change where they are, and nothing odd breaks it."""

import base64
import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import supervision as sv
from PIL import Image, ImageFont

from pixellm.imaging.overlay import COLOURS, OPACITY, colour_of, ink_on, shorten
from pixellm.types import Answer, Target

WIDTH, HEIGHT = 160, 120


def answer(*targets: tuple[str, np.ndarray], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Answer:
    image = Image.new("RGB", size, (110, 120, 130))
    found = tuple(Target.of_mask(phrase, (0, 0), mask, 0.9) for phrase, mask in targets)
    return Answer("q", "a", found, size[::-1], image)


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def changed(given: Answer) -> np.ndarray:
    drawn = given.overlay()
    assert drawn.size == given.image.size
    assert drawn.mode == "RGB"
    return np.abs(np.asarray(drawn, dtype=int) - np.asarray(given.image.convert("RGB"), dtype=int)).max(axis=2)


def test_pixels_of_the_mask_change_and_others_do_not():
    mask = box(30, 40, 100, 130)
    difference = changed(answer(("", mask)))
    assert (difference[mask] > 10).all()
    assert not difference[:25].any()
    assert not difference[:, :35].any()
    assert (difference[~mask] > 0).sum() < 4 * sum(mask.shape) * 2  # the edge


def test_each_target_has_the_colour_of_its_index():
    first, second = box(10, 10, 110, 70), box(10, 90, 110, 150)
    pixels = np.asarray(answer(("", first), ("", second)).overlay(), dtype=float)
    for index, (y, x) in enumerate([(60, 40), (60, 120)]):
        colour = np.array([int(colour_of(index)[at : at + 2], 16) for at in (1, 3, 5)])
        ground = np.array([110, 120, 130])
        expected = ground + 0.45 * (colour - ground)
        assert np.abs(pixels[y, x] - expected).max() < 3


def test_equals_drawing_all_at_once():
    """Target by target, the picture is that of supervision's annotators with all masks at once: small ones on top."""
    grown = [box(5, 5, 115, 155), box(20, 30, 70, 100), box(50, 60, 110, 150), box(60, 70, 65, 80)]
    ring = box(80, 10, 110, 50) & ~box(90, 20, 100, 40)
    targets = tuple(Target.of_mask("", (0, 0), mask, 0.9) for mask in (grown[1], *grown, ring, grown[3]))
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    given = Answer("q", "a", targets, (HEIGHT, WIDTH), Image.fromarray(noise))
    palette = sv.ColorPalette.from_hex(list(COLOURS))
    scene = sv.MaskAnnotator(palette, OPACITY).annotate(given.image.copy(), given.to_detections())
    scene = sv.PolygonAnnotator(sv.Color.WHITE, 3).annotate(scene, given.to_detections())
    scene = sv.PolygonAnnotator(palette, 1).annotate(scene, given.to_detections())
    difference = np.abs(np.asarray(given.overlay(), dtype=int) - np.asarray(scene, dtype=int))
    assert difference.max() <= 1  # with OpenCV, it rounds


def test_masks_are_drawn_one_by_one():
    """Thirty masks take the memory of some pictures, not of thirty masks."""
    size = (400, 300)
    parts = np.zeros((30, size[1], size[0]), dtype=bool)
    for index in range(30):
        parts[index, 50:250, 10 * index : 10 * index + 100] = True
    given = answer(*(("", mask) for mask in parts), size=size)
    tracemalloc.start()
    given.overlay()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * size[0] * size[1]  # a picture is three bytes a pixel


def test_detections():
    first, second = box(10, 10, 110, 70), box(10, 90, 110, 150)
    found = answer(("cat", first), ("dog", second)).to_detections()
    assert np.array_equal(found.mask, np.stack([first, second]))
    assert found.xyxy.tolist() == [[10, 10, 69, 109], [90, 10, 149, 109]]
    assert found.data["class_name"].tolist() == ["cat", "dog"]
    assert len(answer().to_detections()) == 0


def test_an_empty_mask_keeps_the_colours_of_the_others():
    empty, mask = np.zeros((HEIGHT, WIDTH), dtype=bool), box(10, 10, 110, 150)
    with_empty = np.asarray(answer(("nothing", empty), ("", mask)).overlay())
    plain = np.asarray(answer(("", empty), ("", mask)).overlay())
    assert np.array_equal(with_empty, plain)
    assert not changed(answer(("nothing", empty))).any()


def test_the_label_is_drawn():
    mask = box(10, 10, 110, 150)
    assert (np.asarray(answer(("cat", mask)).overlay()) != np.asarray(answer(("", mask)).overlay())).any()


def test_no_targets():
    given = answer()
    assert not changed(given).any()
    assert given.overlay() is not given.image


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 200), (200, 1)])
def test_tiny_pictures(size):
    changed(answer(("cat", np.ones(size[::-1], dtype=bool)), size=size))


def test_one_pixel_in_a_large_picture():
    mask = np.zeros((900, 1200), dtype=bool)
    mask[501, 701] = True  # between the points of the coarse grid that labels are placed on
    difference = changed(answer(("cat", mask), size=(1200, 900)))
    assert difference[501, 701] > 0
    rows, columns = np.nonzero(difference)
    assert rows.min() > 400
    assert columns.min() > 500


def test_long_and_odd_phrases():
    mask = box(10, 10, 60, 60)
    for phrase in ("a very long phrase " * 50, "x" * 500, "two\nlines\tand\ttabs", "猫とÖl", "  "):
        changed(answer((phrase, mask)))


def test_many_targets_and_grey_pictures():
    targets = tuple(Target.of_mask("cat", (0, 3), box(k, 2 * k, k + 40, 2 * k + 50), 1.0) for k in range(25))
    given = Answer("q", "cat", targets, (HEIGHT, WIDTH), Image.new("L", (WIDTH, HEIGHT), 90))
    assert given.overlay().size == (WIDTH, HEIGHT)


def test_colours():
    assert len(set(COLOURS)) == len(COLOURS) >= 10
    assert colour_of(len(COLOURS)) == colour_of(0)
    assert {ink_on(index) for index in range(len(COLOURS))} == {"#000000", "#FFFFFF"}


def test_shorten():
    font = ImageFont.load_default(14)
    assert shorten("short", font, 100) == "short"
    cut = shorten("aratherlongphrase", font, 60)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 60
    assert font.getlength("aratherlongphrase"[: len(cut)] + "…") > 60
    assert shorten("long", font, 1) == ""


def test_an_answer_without_its_image_is_not_drawn():
    with pytest.raises(ValueError, match="expected an answer with its image"):
        replace(answer(("cat", box(10, 10, 60, 60))), image=None).overlay()


def test_a_notebook_shows_picture_and_coloured_phrases():
    mask = box(30, 40, 100, 130)
    targets = (Target.of_mask("the <b> cat", (0, 11), mask, 0.9), Target.of_mask("a dog", (16, 21), mask, 0.9))
    shown = Answer("What & who?", "the <b> cat and a dog.", targets, (HEIGHT, WIDTH), Image.new("RGB", (WIDTH, HEIGHT)))
    text = shown._repr_html_()
    assert (
        f'background:{colour_of(0)};color:{ink_on(0)};border-radius:3px;padding:0 3px">the &lt;b&gt; cat</mark> and '
        in text
    )
    assert ">a dog</mark>." in text
    assert "What &amp; who?" in text
    picture = Image.open(io.BytesIO(base64.b64decode(text.split("base64,")[1].split('"')[0])))
    assert picture.size == (WIDTH, HEIGHT)
    assert "<mark" not in Answer("q", "Nothing.", (), (8, 8), Image.new("RGB", (8, 8)))._repr_html_()
