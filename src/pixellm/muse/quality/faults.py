"""Each kind of fault put into good records, to measure how well the checks find it.

    good records → a copy of each with a fault of each kind → checks → precision and recall

A fault bears the name of the check that is to find it. Where a record has no place for a fault (nothing lies far enough
from the middle to be said to be on the wrong side), there is none of that kind.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pixellm.data.categories import SYNONYMS
from pixellm.data.describe import noun
from pixellm.muse.quality.checks import CHECKS, DEFAULT, Rules, check
from pixellm.muse.quality.duplicates import check_all
from pixellm.muse.quality.wording import UNSAFE, plain
from pixellm.muse.records import MuseRecord, MuseTarget
from pixellm.types import SEG_SLOT

OFF_CENTRE = 0.3  # of the side: what is nearer to the middle than to here is on no side
BROAD = (
    *("What is in this image?", "What can you see here?", "Describe the picture in detail.", "What is going on here?"),
    *(
        "Which objects are visible in the scene?",
        "What are the main things in this photo?",
        "Please segment everything here.",
    ),
    *("What stands out in this photograph?", "Can you list all the items shown?", "Which elements make up the scene?"),
    *("What catches the eye?", "What are the most interesting things here?", "Please point out the key objects."),
    *("What is this picture about?", "Name everything that is there.", "How would you summarise this scene?"),
    *("Which parts of the image matter?", "Tell me what you notice.", "Is there anything worth mentioning?"),
)
FOREIGN = (
    *("Womit könnte man hier das Abendessen zubereiten?", "Was braucht man, um sich draußen warm zu halten?"),
    *("Quels objets faudrait-il pour préparer le repas ?", "¿Qué se necesita para preparar la cena?"),
    *("Cosa serve per preparare la cena in questa cucina?", "O que é preciso para preparar o jantar?"),
    *("晚餐需要用到哪些东西?", "夕食の準備には何が必要ですか?", "Что нужно, чтобы приготовить ужин?"),
    *("Wat heb je nodig om het avondeten klaar te maken?", "Akşam yemeğini hazırlamak için ne gerekir?"),
)
SIDEWAYS = (
    *("the {thing} on the {side}", "the {thing} on the far {side} of the image", "the {side} {thing}"),
    *("the {thing} in the {side} foreground", "the {side}-hand {thing}", "the {thing} at the {side} edge of the photo"),
    *("the {thing} standing to the {side}", "the {thing} that is furthest to the {side} in the picture"),
)
UPRIGHT = (
    *("the {thing} at the {side}", "the {thing} near the {side} of the picture", "the {thing} along the {side} edge"),
    "the {thing} in the {side} half of the image",
)
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
Fault = Callable[[MuseRecord, random.Random], MuseRecord | None]


@dataclass(frozen=True)
class Measured:
    """How a check did.

    Args:
        check: its name.
        injected: records with its fault.
        caught: those among them that it found.
        alarms: records that it found something in and that have not its fault, but another one or none.
        good: records without any fault among the alarms.
    """

    check: str
    injected: int
    caught: int
    alarms: int
    good: int

    @property
    def precision(self) -> float:
        """Caught of all that it raised; NaN where it raised nothing."""
        return self.caught / (self.caught + self.alarms) if self.caught + self.alarms else float("nan")

    @property
    def recall(self) -> float:
        """Caught of all that has its fault; NaN where nothing has."""
        return self.caught / self.injected if self.injected else float("nan")


def inject(records: Sequence[MuseRecord], seed: int = 0) -> list[tuple[str, MuseRecord]]:
    """A copy of each record with each fault that it has a place for: (name of the check, record)."""
    found = []
    for record in records:
        for kind, fault in FAULTS.items():
            rng = random.Random(f"{seed}/{kind}/{record.record_id}")
            faulty = fault(record, rng)
            if faulty is not None:
                found.append((kind, replace(faulty, record_id=f"{record.record_id}/{kind}")))
    return found


def measure(records: Sequence[MuseRecord], rules: Rules = DEFAULT, seed: int = 0) -> list[Measured]:
    """Precision and recall of each check over `records`, which are taken for good, and their faulty copies."""
    faulty = inject(records, seed)
    caught, alarms, good = Counter[str](), Counter[str](), Counter[str]()
    for record in records:
        good.update(fault.check for fault in check(record, rules))
    for kind, record in faulty:
        raised = {fault.check for fault in check(record, rules)}
        caught[kind] += kind in raised
        alarms.update(raised - {kind})
    # Every faulty copy is a near-duplicate of its record: that check sees its own kind alone. Whatever may be repeated
    # elsewhere, a copy is what it is to find.
    doubled = [record for kind, record in faulty if kind == "near_duplicate"]
    ids = {record.record_id for record in doubled}
    good["near_duplicate"] += len(_duplicates(records, rules))
    caught["near_duplicate"] = len(_duplicates([*records, *doubled], replace(rules, repeats=0)) & ids)
    injected = Counter(kind for kind, _ in faulty)
    return [Measured(k, injected[k], caught[k], alarms[k] + good[k], good[k]) for k in FAULTS]


def _duplicates(records: Sequence[MuseRecord], rules: Rules) -> set[str]:
    checked = check_all(records, rules)
    return {one.record_id for one, faults in checked if any(fault.check == "near_duplicate" for fault in faults)}


def _said(record: MuseRecord, index: int, description: str) -> MuseRecord:
    """A target called something else, in the text as well."""
    pieces = record.text.split(SEG_SLOT)
    old = record.targets[index].description
    start = pieces[index].lower().rfind(old.lower())
    if start < 0:
        return record
    pieces[index] = pieces[index][:start] + description + pieces[index][start + len(old) :]
    return replace(_with(record, index, description=description), text=SEG_SLOT.join(pieces))


def _with(record: MuseRecord, index: int, **changes: Any) -> MuseRecord:
    targets = list(record.targets)
    targets[index] = replace(targets[index], **changes)
    return replace(record, targets=tuple(targets))


def _any(record: MuseRecord, rng: random.Random) -> tuple[int, MuseTarget]:
    index = rng.randrange(len(record.targets))
    return index, record.targets[index]


def _schema(record: MuseRecord, rng: random.Random) -> MuseRecord:
    index, target = _any(record, rng)
    return rng.choice(
        (
            replace(record, text=" "),
            replace(record, question=""),
            replace(record, question=None),
            replace(record, image=replace(record.image, height=0)),
            replace(record, provenance=replace(record.provenance, engine="unknown")),
            _with(record, index, description=""),
            _with(record, index, category=None),
            _with(record, index, box=(*target.box[:2], float("nan"), 4.0)),
        )
    )


def _slots(record: MuseRecord, rng: random.Random) -> MuseRecord:
    if rng.random() < 0.5:
        return replace(record, text=record.text.replace(f" {SEG_SLOT}", "", 1))
    return replace(record, text=f"{record.text} And one more {SEG_SLOT}.")


def _few_targets(record: MuseRecord, rng: random.Random) -> MuseRecord:
    _, target = _any(record, rng)
    return replace(record, text=f"That would be {target.description} {SEG_SLOT}.", targets=(target,))


def _mask(record: MuseRecord, rng: random.Random) -> MuseRecord:
    index, target = _any(record, rng)
    height, width = record.image.height, record.image.width
    x, y, *_ = target.box
    beyond = [width + 5, height + 5, width + 30, height + 5, width + 30, height + 30]
    corner = (width - 12, height - 12) if x + y < (width + height) / 3 else (0, 0)
    elsewhere = [corner[0], corner[1], corner[0] + 9, corner[1], corner[0] + 9, corner[1] + 9]
    nothing = {"size": [height, width], "counts": [height * width]}
    wrong_size = {"size": [height + 1, width], "counts": [(height + 1) * width]}
    choices = ([], nothing, wrong_size, [beyond], [elsewhere], [[1, 1, 5, 5]], None)
    return _with(record, index, segmentation=rng.choice(choices))


def _repeated_targets(record: MuseRecord, rng: random.Random) -> MuseRecord:
    _, target = _any(record, rng)
    other = rng.choice(
        (
            replace(target, description=f"another {target.category}"),
            replace(target, annotation_id=-1, description=f"one more {target.category}"),
        )
    )
    text = f"{record.text} There is also {other.description} {SEG_SLOT}."
    return replace(record, text=text, targets=(*record.targets, other))


def _named(record: MuseRecord, rng: random.Random) -> MuseRecord:
    index, target = _any(record, rng)
    if rng.random() < 0.5:
        other = (index + 1) % len(record.targets)
        targets = list(record.targets)
        targets[index], targets[other] = targets[other], targets[index]
        return replace(record, targets=tuple(targets))
    pieces = record.text.split(SEG_SLOT)
    start = pieces[index].lower().rfind(target.description.lower())
    words = rng.choice(("it", "this one", "the thing that you need"))
    pieces[index] = f"{pieces[index][: max(start, 0)]}{words} "
    return replace(record, text=SEG_SLOT.join(pieces))


def _giveaway(record: MuseRecord, rng: random.Random) -> MuseRecord:
    _, target = _any(record, rng)
    word = noun(target.category)
    others = SYNONYMS.get(target.category, ())
    question = rng.choice(
        (
            *(f"Who left the {other} there, and why?" for other in others[:1]),
            f"Where is the {word.singular}, and what goes with it?",
            f"{record.question} I mean the {word.plural}.",
            f"What would you use {target.description} for, and with what?",
        )
    )
    return replace(record, question=question)


def _broad(record: MuseRecord, rng: random.Random) -> MuseRecord:
    return replace(record, question=rng.choice(BROAD))


def _place(record: MuseRecord, rng: random.Random) -> MuseRecord | None:
    found = []
    for index, target in enumerate(record.targets):
        x, y, width, height = target.box
        across, down = (x + width / 2) / record.image.width, (y + height / 2) / record.image.height
        kin = [one for one in record.targets if one is not target and one.category == target.category]
        sides = [("left", across), ("right", 1 - across), ("top", down), ("bottom", 1 - down)]
        for side, there in sides:
            if there < OFF_CENTRE and not kin:
                wordings = SIDEWAYS if side in ("left", "right") else UPRIGHT
                found += [(index, text.format(thing=target.category, side=OPPOSITE[side])) for text in wordings]
        for other in record.targets:
            if other.box[0] + other.box[2] / 2 < x + width / 2 + 0.1 * record.image.width:
                continue
            if other in kin:
                found.append((index, f"the rightmost {target.category}"))
            elif sum(one.category == other.category for one in record.targets) == 1:
                found.append((index, f"the {target.category} to the right of the {other.category}"))
    return _choose(record, found, rng)


def _size(record: MuseRecord, rng: random.Random) -> MuseRecord | None:
    found = []
    for index, target in enumerate(record.targets):
        share = _box_area(target) / (record.image.height * record.image.width)
        kin = [one for one in record.targets if one is not target and one.category == target.category]
        if not kin and share > 0.3:
            found += [(index, f"the {word} {target.category}") for word in ("tiny", "small", "little")]
        if not kin and share < 0.004:
            found += [(index, f"the {word} {target.category}") for word in ("huge", "large", "big")]
        if any(one.area > 2 * target.area and _box_area(one) > 2 * _box_area(target) for one in kin):
            found.append((index, f"the largest {target.category}"))
    return _choose(record, found, rng)


def _choose(record: MuseRecord, found: list[tuple[int, str]], rng: random.Random) -> MuseRecord | None:
    """One of the untrue descriptions, of those that no other target has."""
    taken = {plain(one.description) for one in record.targets}
    new = [one for one in found if plain(one[1]) not in taken]
    return _said(record, *rng.choice(new)) if new else None


def _box_area(target: MuseTarget) -> float:
    return target.box[2] * target.box[3]


def _foreign(record: MuseRecord, rng: random.Random) -> MuseRecord:
    first, second = rng.sample(FOREIGN, 2)
    if rng.random() < 0.5:
        return replace(record, question=first)
    named = ", ".join(f"{target.description} {SEG_SLOT}" for target in record.targets)
    return replace(record, text=f"{first} {second} {named}.")


def _length(record: MuseRecord, rng: random.Random) -> MuseRecord:
    index, target = _any(record, rng)
    long = f"{target.description} that lies there" + " and goes on and on and on" * 20
    return rng.choice(
        (
            replace(record, question="Cooking tools?"),
            replace(record, question=f"{record.question} {'Think about it well before you answer. ' * 15}"),
            replace(record, text=f"{'Let me think about this for a while. ' * 130}{record.text}"),
            _said(record, index, long),
        )
    )


def _unsafe(record: MuseRecord, rng: random.Random) -> MuseRecord:
    word = rng.choice(UNSAFE)
    if rng.random() < 0.5:
        return replace(record, question=f"{record.question} It is for a {word} scene.")
    return replace(record, text=f"{record.text} This has to do with {word.upper()}.")


def _near_duplicate(record: MuseRecord, rng: random.Random) -> MuseRecord:
    name = f"copy-of-{record.image.file_name}"
    elsewhere = replace(record, image=replace(record.image, file_name=name, coco_url=None))
    return rng.choice(
        (
            replace(record, question=record.question.replace("?", " ?").upper()),
            replace(record, question=f"Hm, {record.question[0].lower()}{record.question[1:]}", text=record.text),
            replace(elsewhere, text=f"{record.text} "),
        )
    )


FAULTS: dict[str, Fault] = {
    **{"schema": _schema, "slots": _slots, "few_targets": _few_targets, "mask": _mask},
    **{"repeated_targets": _repeated_targets, "named": _named, "giveaway": _giveaway, "broad": _broad},
    **{"place": _place, "size": _size, "foreign": _foreign, "length": _length, "unsafe": _unsafe},
    "near_duplicate": _near_duplicate,
}
assert set(FAULTS) == {one.__name__ for one in CHECKS} | {"near_duplicate"}
