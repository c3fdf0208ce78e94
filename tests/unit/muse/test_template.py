"""Questions made by rules: true of the boxes, naming nothing that they ask for, the same each time."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pixellm.data.categories import COCO
from pixellm.muse.annotation_index import AnnotationIndex
from pixellm.muse.quality.checks import QualityRules, check
from pixellm.muse.quality.duplicates import check_all
from pixellm.muse.records import ImageAnnotations, MuseImage, MuseRecord, MuseTarget, Provenance
from pixellm.muse.selection import Selection, SelectionRules
from pixellm.muse.template import knowledge
from pixellm.muse.template.engine import TemplateEngine
from pixellm.muse.template.naming import PhraseWriter

WIDTH, HEIGHT = 400, 300
IMAGE = MuseImage(1, "1.png", HEIGHT, WIDTH)
MADE = Provenance("template", "m", "p", synthetic=True)


def thing(number: int, category: str, x: int, y: int, side: int = 40) -> MuseTarget:
    outline = [x, y, x + side, y, x + side, y + side, x, y + side]
    return MuseTarget(number, category, "", [outline], (x, y, side, side), float(side * side))


def scene(*things: MuseTarget, others: tuple[MuseTarget, ...] = (), **more) -> ImageAnnotations:
    return ImageAnnotations(IMAGE, things, others, **({"complete": frozenset(COCO)} | more))


TABLE = scene(
    *(
        thing(1, "dining table", 20, 150, 140),
        thing(2, "cup", 30, 40),
        thing(3, "cup", 330, 60),
        thing(4, "fork", 200, 30),
    ),
    *(thing(5, "pizza", 200, 200), thing(6, "chair", 330, 180, 60)),
)


@pytest.fixture
def images(tmp_path) -> Path:
    pixels = np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
    pixels[40:80, 30:70] = (220, 20, 20)  # the first cup is red
    Image.fromarray(pixels).save(tmp_path / "1.png")
    return tmp_path


def asked(given: ImageAnnotations, images: Path, questions: int = 50, seed: int = 0) -> list[MuseRecord]:
    return list(asyncio.run(TemplateEngine(images, questions, seed).ask(given)).records)


def test_good_records_that_are_the_same_each_time(images) -> None:
    made = asked(TABLE, images)
    assert len(made) > 15
    assert made == asked(TABLE, images)
    assert made != asked(TABLE, images, seed=1)
    assert not [(one.text, check(one)) for one in made if check(one)]
    assert {one.provenance.engine for one in made} == {"template"}
    assert all(one.provenance.synthetic for one in made)
    assert len({(one.question, frozenset(t.annotation_id for t in one.targets)) for one in made}) == len(made)
    assert len({one.question for one in made}) > 12
    assert asked(TABLE, images, questions=5) == made[:5]


def test_all_that_a_property_holds_for_is_asked_for(images) -> None:
    made = asked(scene(*(thing(i, "cup", 60 * i, 50) for i in range(5)), thing(9, "dog", 100, 200, 80)), images)
    drinking = next(one for one in knowledge.properties() if one.key == "drinking vessels")
    plain = [one for one in made if one.question in drinking.questions]
    assert plain
    assert all({t.annotation_id for t in one.targets} == {0, 1, 2, 3, 4} for one in plain)


def test_what_is_unclear_is_not_asked(images) -> None:
    cups = (thing(1, "cup", 10, 10), thing(2, "cup", 300, 10))
    drinking = next(one for one in knowledge.properties() if one.key == "drinking vessels")
    assert "bowl" in drinking.unclear

    def drinks(given: ImageAnnotations) -> bool:
        return any(one.question.startswith(drinking.questions) for one in asked(given, images))

    assert drinks(scene(*cups))
    assert not drinks(scene(*cups, thing(3, "bowl", 150, 10)))
    assert not drinks(scene(*cups, others=(thing(3, "cup", 150, 10, 30),)))  # a cup too small to show, but not tiny
    assert drinks(scene(*cups, others=(thing(3, "cup", 150, 10, 10),)))
    assert not drinks(scene(*cups, complete=frozenset()))  # there may be others that nobody annotated


def test_tiny_things_are_left_out_in_words(images) -> None:
    given = scene(thing(1, "cup", 10, 10), thing(2, "cup", 300, 10), others=(thing(3, "cup", 150, 10, 8),))
    asking = [one.question for one in asked(given, images) if "drink" in one.text]
    assert asking
    assert all(any(word in one for word in ("tiny", "Small")) for one in asking)


def test_where_not_everything_was_looked_for_examples_are_asked_for(images) -> None:
    given = scene(thing(1, "cup", 10, 10), thing(2, "cup", 300, 10), exhaustive=False)
    drinking = next(one for one in knowledge.properties() if one.key == "drinking vessels")
    made = [one.question for one in asked(given, images) if one.question.startswith(drinking.questions)]
    assert made
    assert all("two" in one.lower() for one in made)


def words(given: ImageAnnotations, images: Path) -> dict[int, tuple[str, ...]]:
    return PhraseWriter(given, np.asarray(Image.open(images / "1.png"))).phrases


def test_words_for_things(images) -> None:
    found = words(TABLE, images)
    assert "the red cup" in found[2]
    assert {"the leftmost cup", "the cup on the left", "the cup in the upper left corner"} <= set(found[2])
    assert {"the rightmost cup", "the cup on the right"} <= set(found[3])
    assert {"the fork", "the fork in the middle"} & set(found[4])
    assert "the pizza beside the dining table" not in found[5]
    row = words(scene(*(thing(i, "cup", 20 + 90 * i, 100) for i in range(4))), images)
    assert "the second cup from the left" in row[1]
    assert "the third cup from the right" in row[1]
    assert "the rightmost cup" in row[3]
    # Two that hardly differ have no words.
    assert words(scene(thing(1, "cup", 100, 100), thing(2, "cup", 104, 100)), images) == {1: (), 2: ()}
    sizes = words(scene(thing(1, "cup", 100, 100, 30), thing(2, "cup", 104, 100, 80)), images)
    assert {"the largest cup", "the biggest cup"} <= set(sizes[2])
    assert "the smallest cup" in sizes[1]


def test_words_are_true_of_all_that_is_annotated(images) -> None:
    """A cup that is not asked about counts, too."""
    given = scene(thing(1, "cup", 100, 100), thing(2, "cup", 200, 100), others=(thing(3, "cup", 10, 100, 30),))
    found = words(given, images)
    assert not any("leftmost" in one for one in found[1])
    assert "the second cup from the left" in found[1]
    for number, said in found.items():
        for one in said:
            target = replace(next(t for t in given.instances if t.annotation_id == number), description=one)
            rest = tuple(
                replace(t, description="x") for t in (*given.instances, *given.others) if t.annotation_id != number
            )
            record = MuseRecord("1/1", IMAGE, "What could one drink from in here?", "", (target, *rest), MADE)
            assert [fault for fault in check(record) if fault.check in ("place", "size")] == []


def test_nothing_to_ask(images) -> None:
    made = asyncio.run(TemplateEngine(images, 5).ask(scene(thing(1, "dog", 10, 10), thing(2, "toaster", 200, 10))))
    assert made.records == () or all(len(one.targets) == 2 for one in made.records)
    made = asyncio.run(
        TemplateEngine(images, 5).ask(
            scene(thing(1, "toaster", 10, 10), thing(2, "scissors", 200, 10), complete=frozenset())
        )
    )
    assert (made.records, made.reason) == ((), "no rule fits what is in it")


def test_the_tables_are_well_formed(shared) -> None:
    """Every name is one of COCO or LVIS, no question names what it asks for in so many words."""
    lvis = json.loads((shared / "data/coco_480/lvis_val.json").read_text())["categories"]
    known = frozenset(COCO) | {one["name"].replace("_", " ") for one in lvis}
    assert frozenset(COCO).union(*knowledge.groups().values()) <= known
    parts = [names for one in knowledge.activities() for names, _ in one.parts]
    used = frozenset().union(*parts, *(one.holds for one in knowledge.properties()))
    assert frozenset(COCO) <= used
    assert len(used) >= 900
    for one in knowledge.properties():
        assert one.holds | one.unclear <= known, one.key
        assert not one.holds & one.unclear
        assert all(text.strip() and text[-1] in "?." for text in one.questions), one.key
    for one in knowledge.activities():
        assert all(names <= known for names, _ in one.parts), one.key
        assert set(one.needs) < set(range(len(one.parts)))
    questions = [text for one in (*knowledge.properties(), *knowledge.activities()) for text in one.questions]
    assert len(questions) == len(set(questions)) > 230


def test_every_group_is_used() -> None:
    """A kind of thing that no rule speaks of is dead."""
    folder = Path(knowledge.__file__).parent
    text = (folder / "properties.yaml").read_text() + (folder / "activities.yaml").read_text()
    text += "\n".join(
        line.split(":", 1)[1] for line in (folder / "groups.yaml").read_text().splitlines() if ":" in line
    )
    groups = yaml.safe_load((folder / "groups.yaml").read_text())
    assert [name for name in groups if name not in text] == []


def test_real_photographs(shared, tmp_path) -> None:
    folder = shared / "data/coco_480"
    with AnnotationIndex.build(folder / "instances_train.json", tmp_path / "source.sqlite") as source:
        engine = TemplateEngine(folder / "images", 20)
        chosen = [
            one.annotated for one in Selection(source, folder / "images", SelectionRules(images=60)) if one.annotated
        ]
        made = [record for one in chosen for record in asyncio.run(engine.ask(one)).records]
        faults = [found for _, found in check_all(made, QualityRules(others=source.instances, repeats=5)) if found]
    assert len(made) > 300
    assert len(faults) < 0.05 * len(made)
    assert max(len(one.targets) for one in made) >= 6
