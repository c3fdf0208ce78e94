"""Engine that needs no server: questions and answers from tables, about what is annotated.

ImageAnnotations → drafts (question, sentence, instances) → phrases for the instances → records
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pixellm.imaging.images import load_image
from pixellm.muse.generation import GenerationResult
from pixellm.muse.quality.wording import name_in
from pixellm.muse.records import ImageAnnotations, MuseImage, MuseRecord, MuseTarget, Provenance
from pixellm.muse.template.drafts import TemplateDraft, capital, drafts, enumerated
from pixellm.muse.template.naming import PhraseWriter
from pixellm.types import SEG_SLOT

GRAMMAR = "grammar@1"
PROMPT = "template@1"
SAME_TARGETS = 12  # questions about the same instances of an image
OPENINGS = ("You could", "You would", "You can")


class TemplateEngine:
    """`MuseEngine` by rules.

    Args:
        images: folder of the images, whose pixels decide about colours.
        questions: questions about an image at most.
        seed: sampling seed; the same seed gives an image the same questions.
    """

    def __init__(self, images: Path, questions: int, seed: int = 0) -> None:
        self._images, self._questions, self._seed = images, questions, seed

    async def ask(self, image: ImageAnnotations) -> GenerationResult:
        """Write questions of all kinds that the image allows, in random order."""
        image_id = image.image.image_id
        rng = random.Random(f"{self._seed}/{image_id}")
        phrases = PhraseWriter(image, self._pixels(image)).phrases
        named = tuple(target for target in image.instances if phrases[target.annotation_id])
        records: list[MuseRecord] = []
        counts: Counter[frozenset[int]] = Counter()
        for draft in _mixed(drafts(image, named, rng), rng):
            if len(records) == self._questions:
                break
            ids = frozenset(target.annotation_id for group in draft.groups for target in group)
            if counts[ids] == SAME_TARGETS or _gives_away(draft):
                continue
            counts[ids] += 1
            records.append(_record(draft, f"{image_id}/{len(records) + 1}", image.image, phrases, rng))
        return GenerationResult(tuple(records), reason=None if records else "no rule fits what is in it")

    def _pixels(self, image: ImageAnnotations) -> np.ndarray:
        pixels = load_image(self._images / image.image.file_name)
        size = (image.image.width, image.image.height)
        return np.asarray(pixels if pixels.size == size else pixels.resize(size))


def _gives_away(draft: TemplateDraft) -> bool:
    return any(name_in(draft.question, target.category, "") for group in draft.groups for target in group)


def _mixed(drafts: Iterable[TemplateDraft], rng: random.Random) -> list[TemplateDraft]:
    """Take one draft of each kind in turn, so that no kind is cut off by the number of questions."""
    by_kind: dict[str, list[TemplateDraft]] = {}
    for draft in drafts:
        by_kind.setdefault(draft.kind, []).append(draft)
    mixed: list[TemplateDraft] = []
    kinds = list(by_kind.values())
    for kind in kinds:
        rng.shuffle(kind)
    while any(kinds):
        rng.shuffle(kinds)
        mixed += [kind.pop() for kind in kinds if kind]
    return mixed


def _record(
    draft: TemplateDraft,
    record_id: str,
    image: MuseImage,
    phrases: dict[int, tuple[str, ...]],
    rng: random.Random,
) -> MuseRecord:
    groups = [
        [replace(target, description=rng.choice(phrases[target.annotation_id])) for target in group]
        for group in draft.groups
    ]
    sentence = draft.sentence
    if draft.kind.startswith("activity"):
        sentence = f"{rng.choice(OPENINGS)} {sentence}."
    groups = [sorted(group, key=lambda target: target.box[0] + target.box[2] / 2) for group in groups]
    lists = [enumerated([f"{target.description} {SEG_SLOT}" for target in group]) for group in groups]
    # Targets in the order of the text: a sentence may name the second group first.
    order = sorted(range(len(lists)), key=lambda i: sentence.index(f"{{{i}}}"))
    targets: tuple[MuseTarget, ...] = tuple(target for i in order for target in groups[i])
    provenance = Provenance("template", GRAMMAR, PROMPT, synthetic=True)
    return MuseRecord(record_id, image, draft.question, capital(sentence.format(*lists)), targets, provenance)
