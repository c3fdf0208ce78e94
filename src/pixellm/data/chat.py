"""Records → conversations: which of an image's instances and questions are asked for, and in which words.

Everything random comes from the `random.Random` passed in. Nothing that a data set says is used as a template: braces
in it do no harm.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pixellm.data.records import Exchange, Instance, Record
from pixellm.data.templates import join
from pixellm.imaging.images import load_image
from pixellm.types import SEG_SLOT, Conversation, Sample

# In templates: {what} names joined, {What} the same with a capital letter, {seg} a mask, {segs} one for each name.
_FIELD = re.compile(r"\{(what|What|segs)\}")

SHORT_QUESTIONS = (
    "Segment {what}.",
    "Please segment {what} in this image.",
    "Could you segment {what} for me?",
    "Find {what} and give me the mask.",
    "Where is {what}? Answer with a mask.",
    "Which pixels show {what}?",
    "Mark {what} in the picture.",
    "Outline {what}, please.",
    "Show me {what} in this photo.",
    "Give me a segmentation of {what}.",
    "I need the mask of {what}.",
    "Point out {what} with a mask.",
    "Cut out {what}.",
    "{what}",
)
LONG_REQUESTS = (
    "Please answer with segmentation masks.",
    "Show the answer with masks.",
    "Segment what you name.",
    "Mark it in the image.",
    "Give a mask for each thing.",
    "Please point it out with masks.",
)
EXPLAIN_REQUESTS = (
    "Please segment it and explain why.",
    "Show it with a mask, and tell me the reason.",
    "Give the mask and a short explanation.",
)
ONE_ANSWERS = ("Here it is {seg}.", "It is this {seg}.", "Sure, {seg}.", "{What} {seg}.", "{seg}.")
SEPARATE_ANSWERS = ("{what} {seg}", "{what} is here {seg}", "{seg}")  # one for each target, then joined
JOINT_ANSWERS = (
    "{What}: {segs}.",
    "Here are {what}: {segs}.",
    "Sure, {what} are {segs}, in this order.",
    "In this order, they are {segs}.",
    "{segs}.",
)
ABSENT_ANSWERS = ("There is no {what} here.", "I see no {what} in this image.", "No {what} is to be seen.")
UNFIT_ANSWERS = ("Nothing in this image fits that.", "There is nothing like that here.", "I find nothing of the kind.")


@dataclass(frozen=True)
class Chat:
    """How many questions an image is asked.

    Args:
        questions: questions about instances at most (the paper's recipe: 3).
        targets: instances that one of them asks for at most (the paper's recipe: 3).
        absent_rate: how often something absent is asked for where a record tells what is.
        max_masks: masks of one image at most, which bounds memory; of a record's own questions, as many as fit are
            taken at random, but always one.
        named: answers that are composed here name each instance right before its mask; otherwise many say no more than
            "Here it is".
        first_name_rate: how often an answer uses an instance's first name where it has several.
        mask_stride: every how many pixels masks are read; what the model gives is no finer than a quarter of its input.
    """

    questions: int = 3
    targets: int = 3
    absent_rate: float = 0.1
    max_masks: int = 64
    named: bool = False
    first_name_rate: float = 0.9
    mask_stride: int = 1


@dataclass(frozen=True)
class LazySample:
    """A sample whose image and masks are not read yet: its texts are enough to tell how long it will be."""

    record: Record
    exchanges: tuple[Exchange, ...]
    chat: Chat

    @property
    def groups(self) -> int:
        """Codebook groups in its answers."""
        return sum(len(exchange.targets) for exchange in self.exchanges)

    @property
    def characters(self) -> int:
        """Of its questions and answers, slots not counted."""
        return sum(
            len(exchange.question) + len(exchange.answer or "") - len(SEG_SLOT) * len(exchange.targets)
            for exchange in self.exchanges
        )

    def load(self) -> Sample:
        """Read image and masks.

        Raises:
            ValueError: one of them is missing, broken, or of another size than its annotation; it names the record.
        """
        record = self.record
        try:
            image = load_image(record.image)
            if record.original_hw not in (None, (image.height, image.width)):
                raise ValueError(
                    f"expected {record.image} to be of {record.original_hw} pixels (height, width), as it was "
                    f"annotated, got {(image.height, image.width)}. Use the original."
                )
            conversations = tuple(self._conversation(number, image) for number in range(len(self.exchanges)))
        except ValueError as error:
            raise ValueError(f"record {record.record_id}: {error}") from error
        return Sample(image, conversations, record.record_id)

    def _conversation(self, number: int, image: Image.Image) -> Conversation:
        exchange, stride = self.exchanges[number], self.chat.mask_stride
        sources = [instance.mask for instance in exchange.targets if instance.mask is not None]
        try:
            masks = [source.decode(image.height, image.width)[::stride, ::stride] for source in sources]
        except ValueError as error:
            raise ValueError(f"question {exchange.question!r}: {error}") from error
        empty = np.zeros((0, len(range(0, image.height, stride)), len(range(0, image.width, stride))), dtype=bool)
        ignored = exchange.ignored.decode(image.height, image.width)[::stride, ::stride] if exchange.ignored else None
        return Conversation(
            exchange.question,
            exchange.answer or "",
            np.stack(masks) if masks else empty,
            ignored=ignored,
            continues=self.record.dialogue and number > 0,
        )


def draft(record: Record, rng: random.Random, chat: Chat) -> LazySample:
    """Conversations about one record, their texts complete."""
    if record.dialogue:
        return LazySample(record, tuple(_plain(exchange) for exchange in record.exchanges), chat)
    exchanges = _about_instances(record, rng, chat)
    budget = chat.max_masks - sum(len(exchange.targets) for exchange in exchanges)
    for exchange in rng.sample(record.exchanges, len(record.exchanges)):
        if len(exchange.targets) <= budget or not exchanges:
            exchanges.append(_worded(exchange, rng, chat))
            budget -= len(exchange.targets)
    return LazySample(record, tuple(exchanges), chat)


def _about_instances(record: Record, rng: random.Random, chat: Chat) -> list[Exchange]:
    """Questions for instances by their names: as many instances as `chat` admits, each asked for once.

    Sentences that nothing fits are asked alone.
    """
    count = min(len(record.instances), chat.questions * chat.targets, chat.max_masks)
    chosen = rng.sample(record.instances, count)
    fitting = [instance for instance in chosen if instance.mask is not None]
    unfit = [instance for instance in chosen if instance.mask is None]
    groups: list[list[Instance]] = [[instance] for instance in fitting[: chat.questions]]
    for instance in fitting[chat.questions :]:
        rng.choice([group for group in groups if len(group) < chat.targets]).append(instance)
    exchanges = [_ask_for(group, rng, chat) for group in groups]
    exchanges += [_without_target(instance.names[0], UNFIT_ANSWERS, rng) for instance in unfit[: chat.questions]]
    exchanges = rng.sample(exchanges, min(len(exchanges), chat.questions))
    if record.absent and (not exchanges or rng.random() < chat.absent_rate):
        exchanges[chat.questions - 1 :] = [_without_target(rng.choice(record.absent), ABSENT_ANSWERS, rng)]
    return exchanges


def _ask_for(instances: Sequence[Instance], rng: random.Random, chat: Chat) -> Exchange:
    names = [_name(instance, rng, chat) for instance in instances]
    question = _fill(rng.choice(SHORT_QUESTIONS), join(names).lower())
    return Exchange(question, _compose([name.lower() for name in names], rng, chat.named), tuple(instances))


def _without_target(name: str, answers: Sequence[str], rng: random.Random) -> Exchange:
    question, answer = _fill(rng.choice(SHORT_QUESTIONS), name.lower()), _fill(rng.choice(answers), name.lower())
    return Exchange(question, escape(answer), ())


def _worded(exchange: Exchange, rng: random.Random, chat: Chat) -> Exchange:
    """A record's own question as it is put to the model, and the answer's text."""
    names = [_name(instance, rng, chat) for instance in exchange.targets]
    question, answer = exchange.question, exchange.answer
    if exchange.asks == "phrase":
        question = _fill(rng.choice(SHORT_QUESTIONS), question.lower())
    elif exchange.asks != "verbatim":
        question = f"{question} {rng.choice(LONG_REQUESTS if exchange.asks == 'sentence' else EXPLAIN_REQUESTS)}"
    if exchange.asks == "explain":
        answer = f"{rng.choice(ONE_ANSWERS[:3])} {escape(answer or '')}"
    elif answer is None:
        # The name of a single target often is the question itself: then it says nothing to repeat it.
        answer = _compose(names if chat.named or names != [exchange.question] else [""], rng, chat.named)
    return _plain(Exchange(question, answer, exchange.targets, ignored=exchange.ignored))


def _plain(exchange: Exchange) -> Exchange:
    """With what looks like a mask's slot in a text without masks taken for what it is, text."""
    if exchange.targets or exchange.answer is None:
        return exchange
    return Exchange(exchange.question, escape(exchange.answer), ())


def _compose(names: Sequence[str], rng: random.Random, naming: bool) -> str:
    """An answer that shows targets called `names`, in this order; "" stands for one without a name of its own.

    With `naming`, names come right before their masks where there are any.
    """
    named = all(names)
    names = [escape(name) for name in names]
    naming = naming and named
    if len(names) == 1:
        choices = [t for t in ONE_ANSWERS if ("{What}" in t if naming else named or "{What}" not in t)]
        return _fill(rng.choice(choices), names[0])
    if naming or not named or rng.random() < 0.5:
        templates = SEPARATE_ANSWERS[:1] if naming else SEPARATE_ANSWERS
        template = rng.choice([t for t in templates if named or "{what}" not in t])
        text = join([_fill(template, name) for name in names])
        return f"{text if text.startswith(SEG_SLOT) else text[0].upper() + text[1:]}."
    return _fill(rng.choice(JOINT_ANSWERS), join(names), join([SEG_SLOT] * len(names)))


def _fill(template: str, what: str, segs: str = "") -> str:
    texts = {"what": what, "What": f"{what[:1].upper()}{what[1:]}", "segs": segs}
    return _FIELD.sub(lambda match: texts[match[1]], template)


def _name(instance: Instance, rng: random.Random, chat: Chat) -> str:
    if not instance.names:
        return ""
    first, *others = instance.names
    return first if not others or rng.random() < chat.first_name_rate else rng.choice(others)


def escape(text: str) -> str:
    """Text that someone wrote, in which nothing is a mask's slot."""
    return text.replace(SEG_SLOT, "{ seg }")
