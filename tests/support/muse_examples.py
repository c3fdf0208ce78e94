"""Records as a generation leaves them, about two example images whose objects are outlined by hand."""

import math
from pathlib import Path
from typing import Any

from pixellm.imaging import masks
from pixellm.imaging.examples import load_example
from pixellm.muse.journal import Journal
from pixellm.muse.records import MuseImage, MuseRecord, MuseTarget, Provenance

Polygon = list[float]


def ellipse(x: float, y: float, a: float, b: float, first: float = 0, last: float = 360) -> Polygon:
    """Points around a centre, semi-axes in pixels, from one angle to another in degrees, clockwise from the right."""
    angles = [math.radians(first + (last - first) * i / 60) for i in range(60)]
    return [round(v, 1) for t in angles for v in (x + a * math.cos(t), y + b * math.sin(t))]


CUP = [
    [*ellipse(290, 112, 118, 94, 178, 362), 398, 190, 352, 262, 300, 284, 258, 280, 215, 305, 198, 298, 198, 275,
     222, 236, 182, 190]
]  # fmt: skip
SPOON = [
    [398, 70, 412, 66, 424, 74, 422, 92, 410, 130, 400, 140, 406, 110],
    [*ellipse(366, 285, 40, 41, -60, 290), 376, 232, 386, 200, 388, 232],
]
COFFEE_HW, ASTRONAUT_HW = (400, 600), (512, 512)
ROUND = masks.decode([ellipse(278, 226, 202, 164)], *COFFEE_HW)
SAUCER = masks.encode(ROUND & ~masks.decode(CUP, *COFFEE_HW) & ~masks.decode(SPOON, *COFFEE_HW))  # RLE, with a hole
COFFEE = [ellipse(286, 146, 84, 48)]
FLAG = [[0, 0, 44, 0, 64, 88, 80, 130, 96, 208, 60, 250, 40, 310, 26, 360, 20, 440, 24, 511, 0, 511]]
SHUTTLE = [
    [397, 20, 410, 2, 428, 2, 438, 40, 446, 40, 455, 60, 456, 265, 470, 276, 440, 284, 370, 284, 366, 270, 380, 232,
     354, 228, 356, 210, 378, 180, 380, 60, 388, 42, 396, 60]
]  # fmt: skip
HELMET = [[*ellipse(388, 445, 111, 100, 180, 345), 498, 452, 508, 475, 508, 511, 278, 511]]
PATCH = [ellipse(170, 385, 36, 36)]


def target(number: int, category: str, description: str, segmentation: Any, size: tuple[int, int]) -> MuseTarget:
    mask = masks.decode(segmentation, *size)
    box = masks.bounding_box(mask)
    assert box is not None
    x, y, width, height = map(float, box)
    return MuseTarget(number, category, description, segmentation, (x, y, width, height), float(mask.sum()))


MADE = Provenance("server", "some-model", "boxes@1", False)
COFFEE_IMAGE = MuseImage(1, "coffee.png", *COFFEE_HW)
ASTRONAUT_IMAGE = MuseImage(2, "people/astronaut.png", *ASTRONAUT_HW)
CUP_TARGET = target(1, "cup", "the red and white cup in the middle", CUP, COFFEE_HW)
SPOON_TARGET = target(2, "spoon", "the shiny spoon beside it", SPOON, COFFEE_HW)
SAUCER_TARGET = target(3, "saucer", "the wide saucer below", SAUCER, COFFEE_HW)

RECORDS = [
    MuseRecord(
        "1/0",
        COFFEE_IMAGE,
        "I'd like sugar in my espresso without leaving drops on the table. What do I drink from, what do I stir with, "
        "and where do I lay that down afterwards?",
        "Drink from the red and white cup in the middle {seg}, and stir with the shiny spoon beside it {seg}. Then lay "
        "it on the wide saucer below {seg}, which catches what drips.",
        (CUP_TARGET, SPOON_TARGET, SAUCER_TARGET),
        MADE,
    ),
    MuseRecord(
        "1/1",
        COFFEE_IMAGE,
        "Which things here are hot to the touch? <script>document.title = 'taken over'</script>",
        "The coffee {seg} is, and so is the thing that it is in {seg}. "
        "<img src=x onerror=\"document.title='taken over'\">",
        (target(4, "coffee", "the coffee", COFFEE, COFFEE_HW), CUP_TARGET),
        MADE,
    ),
    MuseRecord(
        "2/0",
        ASTRONAUT_IMAGE,
        "She is about to leave the ground. What will carry her, and what will she put on last?",
        "The white shuttle with its brown tank in the back {seg} will carry her; last she puts on the black helmet in "
        "front {seg}. The flag at the left edge {seg} and the round patch on her chest {seg} say for whom she flies.",
        (
            target(5, "shuttle", "the white shuttle with its brown tank in the back", SHUTTLE, ASTRONAUT_HW),
            target(6, "helmet", "the black helmet in front", HELMET, ASTRONAUT_HW),
            target(7, "flag", "the flag at the left edge", FLAG, ASTRONAUT_HW),
            target(8, "patch", "the round patch on her chest", PATCH, ASTRONAUT_HW),
        ),
        Provenance("template", "grammar@1", "template@1", True),
    ),
]  # fmt: skip


def write_images(folder: Path) -> Path:
    """Write the images of `RECORDS` into a folder."""
    for image, name in ((COFFEE_IMAGE, "coffee"), (ASTRONAUT_IMAGE, "astronaut")):
        path = folder / image.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        load_example(name).save(path, compress_level=1)
    return folder


def write_journal(directory: Path, records: list[MuseRecord] = RECORDS) -> Path:
    """A journal with these records, by image."""
    with Journal(directory, {"engine": "server"}) as journal:
        for image_id in dict.fromkeys(record.image.image_id for record in records):
            journal.finish_image(image_id, [record for record in records if record.image.image_id == image_id])
    return directory
