"""Good records of MUSE, made from random boxes: descriptions are true, and no question names a target."""

import random

from pixellm.data.describe import noun
from pixellm.imaging import masks
from pixellm.muse.records import MuseImage, MuseRecord, MuseTarget, Provenance

WIDTH, HEIGHT = 640, 480
# Question, start of its answer, and categories of its targets.
ASKED = (
    ("Which tools would someone need to cut up and eat a grilled steak?", "One would cut with", ("knife", "fork")),
    ("If it starts to rain, what would keep a walker dry and carry the shopping?", "Take", ("umbrella", "backpack")),
    ("What here could a child hug at bedtime, and where would it sleep?", "It would hug", ("teddy bear", "bed")),
    ("Which of these would help a student to write an essay late at night?", "The student needs", ("laptop", "mouse")),
    ("What would you serve for breakfast to somebody who eats no meat?", "Serve", ("banana", "orange", "donut")),
    ("Who might chase whom around the garden this afternoon?", "There might be a chase between", ("dog", "cat")),
    ("How could a family get to the beach without walking?", "They could ride", ("bicycle", "bus", "car")),
    ("What does a guest need to drink wine in comfort?", "The guest needs", ("wine glass", "chair", "bottle")),
    ("Which things would break if they were dropped on a stone floor?", "These would break:", ("vase", "cup", "bowl")),
    ("What would you turn on to warm up leftovers and then wash up?", "Turn on", ("microwave", "sink")),
    ("Which animals would be sheared or milked by a farmer?", "The farmer looks after", ("sheep", "cow")),
    ("Which equipment does it take to ride the waves or fly in the wind?", "It takes", ("surfboard", "kite")),
    ("Where would a tired traveller sit, and what would be carried?", "Sit on", ("couch", "suitcase", "handbag")),
    ("Which things tell drivers when to wait?", "Drivers wait because of", ("traffic light", "stop sign")),
)
WHEN = (
    *("", "It is a Sunday in winter.", "Somebody is in a hurry.", "The shops are closed.", "Money is short."),
    *(
        "Friends are about to arrive.",
        "It must be quiet.",
        "Answer for a tourist.",
        "Think of an old man.",
        "It is dark.",
    ),
)
LOOKS = (
    "",
    "red ",
    "shiny ",
    "old ",
    "striped ",
    "half-hidden ",
    "wooden ",
    "dusty ",
    "brand-new ",
    "blue ",
    "dull grey ",
)
SIDES = {"left": 0.2, "right": 0.8}


def target(rng: random.Random, number: int, category: str, side: str | None = None) -> MuseTarget:
    """Return an instance, on a side of the image if there is one; described by it, or by its category."""
    width, height = rng.randint(20, 200), rng.randint(20, 160)
    if rng.random() < 0.15:
        width, height = (rng.randint(420, 600), rng.randint(300, 440)) if rng.random() < 0.5 else (24, 24)
    centre = SIDES[side] * WIDTH if side and width < 200 else rng.uniform(0.5 * width, WIDTH - 0.5 * width)
    x = int(min(max(centre - width / 2, 0), WIDTH - width))
    y = rng.randint(0, HEIGHT - height)
    outline = [x, y, x + width, y, x + width, y + height, x, y + height]
    said = f"the {rng.choice(LOOKS)}{noun(category).singular}"
    if side and width < 200:
        said = rng.choice(
            (f"{said} on the {side}", f"{said} on the {side} side of the picture", f"the {side} {category}")
        )
    return MuseTarget(number, category, said, [outline], (x, y, width, height), float(width * height))


def record(number: int, seed: int = 0) -> MuseRecord:
    """Return a good record."""
    rng = random.Random(f"{seed}/{number}")
    question, start, things = ASKED[number % len(ASKED)]
    targets = [
        target(rng, 10 * number + i, thing, rng.choice((None, None, "left", "right"))) for i, thing in enumerate(things)
    ]
    if rng.random() < 0.4:  # two of a kind
        kind = things[0]
        pair = sorted((target(rng, 10 * number + i, kind) for i in (0, 8)), key=lambda one: one.box[0] + one.box[2] / 2)
        words = [f"the {place} {kind}" for place in ("leftmost", "rightmost")]
        pair = [
            MuseTarget(t.annotation_id, kind, w, t.segmentation, t.box, t.area)
            for t, w in zip(pair, words, strict=True)
        ]
        targets = [*pair, *targets[1:]]
    words = [f"{one.description} {{seg}}" for one in targets]
    text = f"{start} {', '.join(words[:-1])} and {words[-1]}, since they are made for it."
    question = f"{rng.choice(WHEN)} {question}".strip()
    image = MuseImage(
        number,
        f"{number:012}.jpg",
        HEIGHT,
        WIDTH,
        f"http://images.cocodataset.org/train2017/{number:012}.jpg",
        "CC BY 2.0",
    )
    return MuseRecord(
        f"{number}/0", image, question, text, tuple(targets), Provenance("template", "v1", "grammar@1", True)
    )


def records(count: int, seed: int = 0) -> list[MuseRecord]:
    return [record(number, seed) for number in range(count)]


def rle(one: MuseTarget) -> dict:
    """Return the mask of a target as a COCO RLE for JSON."""
    return masks.encode(masks.decode(one.segmentation, HEIGHT, WIDTH))
