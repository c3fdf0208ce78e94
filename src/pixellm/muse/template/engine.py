"""The engine that needs no server: questions and answers from tables, about what is annotated.

Scene → drafts (question, sentence, things) → words for the things → records
"""

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pixellm.imaging.images import load_image
from pixellm.muse.quality.wording import name_in
from pixellm.muse.records import MuseRecord, MuseTarget, Provenance
from pixellm.muse.scene import Made, Scene
from pixellm.muse.template.drafts import Draft, capital, drafts, enumerated
from pixellm.muse.template.naming import Names
from pixellm.types import SEG_SLOT

GRAMMAR = "grammar@1"
PROMPT = "template@1"
SAME_TARGETS = 12  # questions of a photograph about the same things
OPENINGS = ("You could", "You would", "You can")


class TemplateEngine:
    """Asks by rules.

    Args:
        images: folder of the photographs, whose pixels tell colours.
        questions: of a photograph at most.
        seed: of everything random; the same seed gives a scene the same questions.
    """

    def __init__(self, images: Path, questions: int, seed: int = 0) -> None:
        self._images, self._questions, self._seed = images, questions, seed

    async def ask(self, scene: Scene) -> Made:
        """Questions of all kinds that the scene allows, in an order drawn by lot."""
        rng = random.Random(f"{self._seed}/{scene.image.image_id}")
        words = Names(scene, self._pixels(scene)).words
        named = tuple(one for one in scene.things if words[one.annotation_id])
        records: list[MuseRecord] = []
        shown: Counter[frozenset[int]] = Counter()
        for draft in _mixed(drafts(scene, named, rng), rng):
            if len(records) == self._questions:
                break
            which = frozenset(one.annotation_id for group in draft.things for one in group)
            if shown[which] == SAME_TARGETS or _gives_away(draft):
                continue
            shown[which] += 1
            records.append(_record(draft, f"{scene.image.image_id}/{len(records) + 1}", scene, words, rng))
        return Made(tuple(records), reason=None if records else "no rule fits what is in it")

    def _pixels(self, scene: Scene) -> np.ndarray:
        image = load_image(self._images / scene.image.file_name)
        size = (scene.image.width, scene.image.height)
        return np.asarray(image if image.size == size else image.resize(size))


def _gives_away(draft: Draft) -> bool:
    return any(name_in(draft.question, thing.category, "") for group in draft.things for thing in group)


def _mixed(drafts: Iterable[Draft], rng: random.Random) -> list[Draft]:
    """One of each kind in turn, so that no kind is cut off by the number of questions."""
    by_kind: dict[str, list[Draft]] = {}
    for draft in drafts:
        by_kind.setdefault(draft.kind, []).append(draft)
    found: list[Draft] = []
    kinds = list(by_kind.values())
    for kind in kinds:
        rng.shuffle(kind)
    while any(kinds):
        rng.shuffle(kinds)
        found += [kind.pop() for kind in kinds if kind]
    return found


def _record(
    draft: Draft, record_id: str, scene: Scene, words: dict[int, tuple[str, ...]], rng: random.Random
) -> MuseRecord:
    said = {one.annotation_id: rng.choice(words[one.annotation_id]) for group in draft.things for one in group}
    sentence = draft.sentence
    if draft.kind.startswith("activity"):
        sentence = f"{rng.choice(OPENINGS)} {sentence}."
    phrases = [
        enumerated([f"{said[one.annotation_id]} {SEG_SLOT}" for one in _left_to_right(group)]) for group in draft.things
    ]
    text = capital(sentence.format(*phrases))
    # Targets in the order of the text: a sentence may name the second group first.
    order = sorted(range(len(phrases)), key=lambda i: sentence.index(f"{{{i}}}"))
    targets = tuple(
        MuseTarget(one.annotation_id, one.category, said[one.annotation_id], one.segmentation, one.box, one.area)
        for i in order
        for one in _left_to_right(draft.things[i])
    )
    made = Provenance("template", GRAMMAR, PROMPT, synthetic=True)
    return MuseRecord(record_id, scene.image, draft.question, text, targets, made)


def _left_to_right(things: Iterable[MuseTarget]) -> list[MuseTarget]:
    return sorted(things, key=lambda one: one.box[0] + one.box[2] / 2)
