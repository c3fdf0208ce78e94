"""Self-test of the checks: faults are injected into good records, to measure how well each check finds its own.

    good records → a copy of each with a fault of each kind → checks → precision and recall

A fault is named after the check that has to find it. Where a record offers no place for a fault (nothing lies far
enough from the middle to be put on the wrong side), there is none of that kind.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pixellm.data.categories import SYNONYMS
from pixellm.data.describe import noun
from pixellm.muse.quality.checks import DEFAULT, NAMES, QualityRules, check
from pixellm.muse.quality.duplicates import check_all
from pixellm.muse.quality.wording import UNSAFE, plain
from pixellm.muse.records import MuseRecord, MuseTarget
from pixellm.types import SEG_SLOT

OFF_CENTRE = 0.3  # fraction of the side: boxes that are nearer to the middle are on no side
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
    *("the {name} on the {side}", "the {name} on the far {side} of the image", "the {side} {name}"),
    *("the {name} in the {side} foreground", "the {side}-hand {name}", "the {name} at the {side} edge of the photo"),
    *("the {name} standing to the {side}", "the {name} that is furthest to the {side} in the picture"),
)
UPRIGHT = (
    *("the {name} at the {side}", "the {name} near the {side} of the picture", "the {name} along the {side} edge"),
    "the {name} in the {side} half of the image",
)
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
Injection = Callable[[MuseRecord, random.Random], MuseRecord | None]


@dataclass(frozen=True)
class CheckScore:
    """Precision and recall of a check.

    Args:
        check: its name.
        injected: records with its fault.
        caught: those among them that it raised.
        alarms: records that it raised without its fault, with another one or none.
        good: records without any fault among the alarms.
    """

    check: str
    injected: int
    caught: int
    alarms: int
    good: int

    @property
    def precision(self) -> float:
        """Caught of all raised; NaN where it raised nothing."""
        return self.caught / (self.caught + self.alarms) if self.caught + self.alarms else float("nan")

    @property
    def recall(self) -> float:
        """Caught of all injected; NaN where nothing was."""
        return self.caught / self.injected if self.injected else float("nan")


def inject(records: Sequence[MuseRecord], seed: int = 0) -> list[tuple[str, MuseRecord]]:
    """Return a copy of each record with each fault that it has a place for: (name of the check, record)."""
    faulty = []
    for record in records:
        for name, injection in INJECTIONS.items():
            copy = injection(record, random.Random(f"{seed}/{name}/{record.record_id}"))
            if copy is not None:
                faulty.append((name, replace(copy, record_id=f"{record.record_id}/{name}")))
    return faulty


def measure(records: Sequence[MuseRecord], rules: QualityRules = DEFAULT, seed: int = 0) -> list[CheckScore]:
    """Score each check over `records`, which are taken for good, and their faulty copies."""
    faulty = inject(records, seed)
    caught, alarms, good = Counter[str](), Counter[str](), Counter[str]()
    for record in records:
        good.update(issue.check for issue in check(record, rules))
    for name, record in faulty:
        raised = {issue.check for issue in check(record, rules)}
        caught[name] += name in raised
        alarms.update(raised - {name})
    # Every faulty copy is a near-duplicate of its record: that check sees its own faults alone. Whatever may be
    # repeated elsewhere, it has to find a copy.
    copies = [record for name, record in faulty if name == "near_duplicate"]
    ids = {record.record_id for record in copies}
    good["near_duplicate"] += len(_duplicates(records, rules))
    caught["near_duplicate"] = len(_duplicates([*records, *copies], replace(rules, repeats=0)) & ids)
    injected = Counter(name for name, _ in faulty)
    return [CheckScore(k, injected[k], caught[k], alarms[k] + good[k], good[k]) for k in INJECTIONS]


def _duplicates(records: Sequence[MuseRecord], rules: QualityRules) -> set[str]:
    checked = check_all(records, rules)
    return {row.record_id for row, issues in checked if any(issue.check == "near_duplicate" for issue in issues)}


def _redescribed(record: MuseRecord, index: int, description: str) -> MuseRecord:
    """Change the description of a target, in the text as well."""
    pieces = record.text.split(SEG_SLOT)
    old = record.targets[index].description
    start = pieces[index].lower().rfind(old.lower())
    if start < 0:
        return record
    pieces[index] = pieces[index][:start] + description + pieces[index][start + len(old) :]
    return replace(_changed(record, index, description=description), text=SEG_SLOT.join(pieces))


def _changed(record: MuseRecord, index: int, **changes: Any) -> MuseRecord:
    targets = list(record.targets)
    targets[index] = replace(targets[index], **changes)
    return replace(record, targets=tuple(targets))


def _random_target(record: MuseRecord, rng: random.Random) -> tuple[int, MuseTarget]:
    index = rng.randrange(len(record.targets))
    return index, record.targets[index]


def _schema(record: MuseRecord, rng: random.Random) -> MuseRecord:
    index, target = _random_target(record, rng)
    return rng.choice(
        (
            replace(record, text=" "),
            replace(record, question=""),
            replace(record, question=None),
            replace(record, image=replace(record.image, height=0)),
            replace(record, provenance=replace(record.provenance, engine="unknown")),
            _changed(record, index, description=""),
            _changed(record, index, category=None),
            _changed(record, index, box=(*target.box[:2], float("nan"), 4.0)),
        )
    )


def _slots(record: MuseRecord, rng: random.Random) -> MuseRecord:
    if rng.random() < 0.5:
        return replace(record, text=record.text.replace(f" {SEG_SLOT}", "", 1))
    return replace(record, text=f"{record.text} And one more {SEG_SLOT}.")


def _few_targets(record: MuseRecord, rng: random.Random) -> MuseRecord:
    _, target = _random_target(record, rng)
    return replace(record, text=f"That would be {target.description} {SEG_SLOT}.", targets=(target,))


def _mask(record: MuseRecord, rng: random.Random) -> MuseRecord:
    index, target = _random_target(record, rng)
    height, width = record.image.height, record.image.width
    x, y, *_ = target.box
    beyond = [width + 5, height + 5, width + 30, height + 5, width + 30, height + 30]
    corner = (width - 12, height - 12) if x + y < (width + height) / 3 else (0, 0)
    elsewhere = [corner[0], corner[1], corner[0] + 9, corner[1], corner[0] + 9, corner[1] + 9]
    nothing = {"size": [height, width], "counts": [height * width]}
    wrong_size = {"size": [height + 1, width], "counts": [(height + 1) * width]}
    choices = ([], nothing, wrong_size, [beyond], [elsewhere], [[1, 1, 5, 5]], None)
    return _changed(record, index, segmentation=rng.choice(choices))


def _repeated_targets(record: MuseRecord, rng: random.Random) -> MuseRecord:
    _, target = _random_target(record, rng)
    other = rng.choice(
        (
            replace(target, description=f"another {target.category}"),
            replace(target, annotation_id=-1, description=f"one more {target.category}"),
        )
    )
    text = f"{record.text} There is also {other.description} {SEG_SLOT}."
    return replace(record, text=text, targets=(*record.targets, other))


def _named(record: MuseRecord, rng: random.Random) -> MuseRecord:
    index, target = _random_target(record, rng)
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
    _, target = _random_target(record, rng)
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
    untrue = []
    for index, target in enumerate(record.targets):
        x, y, width, height = target.box
        across, down = (x + width / 2) / record.image.width, (y + height / 2) / record.image.height
        kin = [row for row in record.targets if row is not target and row.category == target.category]
        sides = [("left", across), ("right", 1 - across), ("top", down), ("bottom", 1 - down)]
        for side, there in sides:
            if there < OFF_CENTRE and not kin:
                wordings = SIDEWAYS if side in ("left", "right") else UPRIGHT
                untrue += [(index, text.format(name=target.category, side=OPPOSITE[side])) for text in wordings]
        for other in record.targets:
            if other.box[0] + other.box[2] / 2 < x + width / 2 + 0.1 * record.image.width:
                continue
            if other in kin:
                untrue.append((index, f"the rightmost {target.category}"))
            elif sum(row.category == other.category for row in record.targets) == 1:
                untrue.append((index, f"the {target.category} to the right of the {other.category}"))
    return _untrue(record, untrue, rng)


def _size(record: MuseRecord, rng: random.Random) -> MuseRecord | None:
    untrue = []
    for index, target in enumerate(record.targets):
        share = _box_area(target) / (record.image.height * record.image.width)
        kin = [row for row in record.targets if row is not target and row.category == target.category]
        if not kin and share > 0.3:
            untrue += [(index, f"the {word} {target.category}") for word in ("tiny", "small", "little")]
        if not kin and share < 0.004:
            untrue += [(index, f"the {word} {target.category}") for word in ("huge", "large", "big")]
        if any(row.area > 2 * target.area and _box_area(row) > 2 * _box_area(target) for row in kin):
            untrue.append((index, f"the largest {target.category}"))
    return _untrue(record, untrue, rng)


def _untrue(record: MuseRecord, descriptions: list[tuple[int, str]], rng: random.Random) -> MuseRecord | None:
    """Change a target's description to an untrue one that no other target has."""
    taken = {plain(target.description) for target in record.targets}
    new = [row for row in descriptions if plain(row[1]) not in taken]
    return _redescribed(record, *rng.choice(new)) if new else None


def _box_area(target: MuseTarget) -> float:
    return target.box[2] * target.box[3]


def _foreign(record: MuseRecord, rng: random.Random) -> MuseRecord:
    first, second = rng.sample(FOREIGN, 2)
    if rng.random() < 0.5:
        return replace(record, question=first)
    named = ", ".join(f"{target.description} {SEG_SLOT}" for target in record.targets)
    return replace(record, text=f"{first} {second} {named}.")


def _length(record: MuseRecord, rng: random.Random) -> MuseRecord:
    index, target = _random_target(record, rng)
    long = f"{target.description} that lies there" + " and goes on and on and on" * 20
    return rng.choice(
        (
            replace(record, question="Cooking tools?"),
            replace(record, question=f"{record.question} {'Think about it well before you answer. ' * 15}"),
            replace(record, text=f"{'Let me think about this for a while. ' * 130}{record.text}"),
            _redescribed(record, index, long),
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


INJECTIONS: dict[str, Injection] = {
    **{"schema": _schema, "slots": _slots, "few_targets": _few_targets, "mask": _mask},
    **{"repeated_targets": _repeated_targets, "named": _named, "giveaway": _giveaway, "broad": _broad},
    **{"place": _place, "size": _size, "foreign": _foreign, "length": _length, "unsafe": _unsafe},
    "near_duplicate": _near_duplicate,
}
assert set(INJECTIONS) == set(NAMES)
