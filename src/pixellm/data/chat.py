"""Questions and answers from a record's names and texts: one of the two conversation builders (see `grammar`).

Everything random comes from the `random.Random` passed in. Texts of a dataset are never used as templates: braces in
them do no harm.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pixellm.data import templates
from pixellm.data.records import Exchange, Instance, Record
from pixellm.data.templates import escape, fill_phrase, join
from pixellm.types import SEG_SLOT, Sample


@dataclass(frozen=True)
class Chat:
    """Conversation builder for records.

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

    def build(self, record: Record, rng: random.Random) -> tuple[Exchange, ...]:
        """Return exchanges with complete texts, whose targets are still to be decoded."""
        if record.dialogue:
            return tuple(_without_stray_slots(exchange) for exchange in record.exchanges)
        exchanges = self._about_instances(record, rng)
        budget = self.max_masks - sum(len(exchange.targets) for exchange in exchanges)
        for exchange in rng.sample(record.exchanges, len(record.exchanges)):
            if len(exchange.targets) <= budget or not exchanges:
                exchanges.append(self._worded(exchange, rng))
                budget -= len(exchange.targets)
        return tuple(exchanges)

    def draft(self, record: Record, rng: random.Random) -> "LazySample":
        """Build the conversations of one record; its image and masks are not read."""
        return LazySample(record, self.build(record, rng), self.mask_stride)

    def _about_instances(self, record: Record, rng: random.Random) -> list[Exchange]:
        """Ask for instances by their names: as many as admitted, each once, sentences that nothing fits alone."""
        count = min(len(record.instances), self.questions * self.targets, self.max_masks)
        instances = rng.sample(record.instances, count)
        fitting = [instance for instance in instances if instance.mask is not None]
        unfit = [instance for instance in instances if instance.mask is None]
        groups: list[list[Instance]] = [[instance] for instance in fitting[: self.questions]]
        for instance in fitting[self.questions :]:
            rng.choice([group for group in groups if len(group) < self.targets]).append(instance)
        exchanges = [self._ask_for(group, rng) for group in groups]
        exchanges += [_without_target(i.names[0], templates.UNFIT_ANSWERS, rng) for i in unfit[: self.questions]]
        exchanges = rng.sample(exchanges, min(len(exchanges), self.questions))
        if record.absent and (not exchanges or rng.random() < self.absent_rate):
            name = rng.choice(record.absent)
            exchanges[self.questions - 1 :] = [_without_target(name, templates.ABSENT_ANSWERS, rng)]
        return exchanges

    def _ask_for(self, instances: Sequence[Instance], rng: random.Random) -> Exchange:
        names = [self._name(instance, rng) for instance in instances]
        question = fill_phrase(rng.choice(templates.SHORT_QUESTIONS), join(names).lower())
        return Exchange(question, _compose([name.lower() for name in names], rng, self.named), tuple(instances))

    def _worded(self, exchange: Exchange, rng: random.Random) -> Exchange:
        """Word a record's own question as it is put to the model, and complete the answer's text."""
        names = [self._name(target, rng) for target in exchange.targets]
        question, answer = exchange.question, exchange.answer
        if exchange.asks == "phrase":
            question = fill_phrase(rng.choice(templates.SHORT_QUESTIONS), question.lower())
        elif exchange.asks != "verbatim":
            requests = templates.SENTENCE_REQUESTS if exchange.asks == "sentence" else templates.EXPLAIN_REQUESTS
            question = f"{question} {rng.choice(requests)}"
        if exchange.asks == "explain":
            answer = f"{rng.choice(templates.ONE_ANSWERS[:3])} {escape(answer or '')}"
        elif answer is None:
            # The name of a single target often is the question itself: then it says nothing to repeat it.
            answer = _compose(names if self.named or names != [exchange.question] else [""], rng, self.named)
        return _without_stray_slots(replace(exchange, question=question, answer=answer, asks="verbatim"))

    def _name(self, instance: Instance, rng: random.Random) -> str:
        if not instance.names:
            return ""
        first, *others = instance.names
        return first if not others or rng.random() < self.first_name_rate else rng.choice(others)


@dataclass(frozen=True)
class LazySample:
    """A sample whose image and masks are not read yet: its texts are enough to tell how long it will be."""

    record: Record
    exchanges: tuple[Exchange, ...]
    mask_stride: int

    @property
    def groups(self) -> int:
        """Codebook groups in its answers."""
        return sum(len(exchange.targets) for exchange in self.exchanges)

    @property
    def characters(self) -> int:
        """Characters of its questions and answers, slots not counted."""
        texts = sum(len(exchange.question) + len(exchange.answer or "") for exchange in self.exchanges)
        return texts - len(SEG_SLOT) * self.groups

    def load(self) -> Sample:
        """Read image and masks.

        Raises:
            ValueError: one of them is missing, broken, or of another size than its annotation.
        """
        record = self.record
        try:
            image = record.load_image()
            conversations = tuple(
                exchange.decode(image.height, image.width, self.mask_stride, record.dialogue and number > 0)
                for number, exchange in enumerate(self.exchanges)
            )
        except ValueError as error:
            raise ValueError(f"record {record.record_id}: {error}") from error
        return Sample(image, conversations, record.record_id)


def _without_target(name: str, answers: Sequence[str], rng: random.Random) -> Exchange:
    question = fill_phrase(rng.choice(templates.SHORT_QUESTIONS), name.lower())
    return Exchange(question, escape(fill_phrase(rng.choice(answers), name.lower())), ())


def _without_stray_slots(exchange: Exchange) -> Exchange:
    """Escape what looks like a mask's slot in an answer without masks."""
    if exchange.targets or exchange.answer is None:
        return exchange
    return Exchange(exchange.question, escape(exchange.answer), ())


def _compose(names: Sequence[str], rng: random.Random, naming: bool) -> str:
    """Write an answer that shows targets in this order; "" stands for one without a name of its own.

    With `naming`, names come right before their masks where there are any.
    """
    named = all(names)
    names = [escape(name) for name in names]
    naming = naming and named
    if len(names) == 1:
        choices = [t for t in templates.ONE_ANSWERS if ("{What}" in t if naming else named or "{What}" not in t)]
        return fill_phrase(rng.choice(choices), names[0])
    if naming or not named or rng.random() < 0.5:
        options = templates.SEPARATE_ANSWERS[:1] if naming else templates.SEPARATE_ANSWERS
        template = rng.choice([t for t in options if named or "{what}" not in t])
        text = join([fill_phrase(template, name) for name in names])
        return f"{text if text.startswith(SEG_SLOT) else text[0].upper() + text[1:]}."
    return fill_phrase(rng.choice(templates.JOINT_ANSWERS), join(names), join([SEG_SLOT] * len(names)))
