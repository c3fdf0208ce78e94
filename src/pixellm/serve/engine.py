"""Dynamic batching: questions join the rows that are being decoded, and leave them when they are answered.

Nothing here knows of processes or HTTP: jobs go in, items come out step by step.
"""

import time
from collections import deque
from dataclasses import dataclass

from PIL import Image

from pixellm.imaging import masks
from pixellm.inference.generation import Decoding, Step
from pixellm.predictor import AnswerDecoder, Predictor
from pixellm.serve.cache import Encoded, PrefixCache
from pixellm.serve.messages import Failed, Finished, Item, Job, Turn
from pixellm.types import Answer, Done, Event, Target

NO_MASK = masks.as_text(masks.empty(1, 1))  # of earlier turns nothing but text and spans is read


@dataclass
class _Running:
    decoder: AnswerDecoder
    prompt_tokens: int
    encode_seconds: float | None
    began: float


class Engine:
    """Answers jobs with one model.

    Args:
        predictor: the model.
        batch_size: rows that are decoded together at most.
        cache_bytes: see `PrefixCache`.
        max_prompt_tokens: longer jobs fail.
        joint: see `pixellm.inference.generation.Decoding`.
    """

    def __init__(
        self,
        predictor: Predictor,
        batch_size: int,
        cache_bytes: int,
        max_prompt_tokens: int,
        joint: bool = False,
    ) -> None:
        self.predictor, self.batch_size, self.max_prompt_tokens = predictor, batch_size, max_prompt_tokens
        self.cache = PrefixCache(cache_bytes)
        self._decoding = Decoding(predictor.model, predictor.processor.eos_ids, joint)
        self._waiting: deque[Job] = deque()
        self._running: dict[int, _Running] = {}

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def rows(self) -> int:
        """How many answers are being written."""
        return len(self._running)

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def cancel(self, job_id: int) -> list[tuple[int, Item]]:
        """Forget a job, wherever it is."""
        known = job_id in self._running or any(job.job_id == job_id for job in self._waiting)
        self._waiting = deque(job for job in self._waiting if job.job_id != job_id)
        if self._running.pop(job_id, None):
            self._decoding.drop([job_id])
        return [(job_id, Failed("cancelled"))] if known else []

    def step(self) -> tuple[list[tuple[int, Item]], int]:
        """Let waiting jobs join, then one step for all rows; what came of it, and how many rows there were."""
        items = self._admit()
        rows = self.rows
        for step in self._decoding.step():
            items += [(step.row, item) for item in self._items(step)]
        return items, rows

    def _admit(self) -> list[tuple[int, Item]]:
        """Fill the batch, but encode one new image in a step at most: the others are waiting for their next word."""
        items: list[tuple[int, Item]] = []
        encoded = False
        while self._waiting and self.rows < self.batch_size and not encoded:
            job = self._waiting.popleft()
            try:
                encoded = self._join(job)
            except ValueError as error:
                items.append((job.job_id, Failed("invalid", str(error))))
        return items

    def _join(self, job: Job) -> bool:
        """Give a job its row; whether its image had to be encoded."""
        predictor = self.predictor
        if job.system is not None:
            predictor = Predictor(predictor.model, predictor.processor, job.system, predictor.sampling)
        prompt = predictor.prompt_ids(job.question, [_answer(turn) for turn in job.history])
        tokens = len(predictor.processor.prefix_ids) + len(prompt)
        if tokens > self.max_prompt_tokens:
            raise ValueError(
                f"expected at most {self.max_prompt_tokens} tokens of image, earlier turns and question, got {tokens}. "
                "Ask in fewer words, or leave out earlier turns."
            )
        settings = predictor.settings(**job.sampling)
        known, seconds = self._encoded(predictor, job)
        decoder = AnswerDecoder(self.predictor, job.question, known.photograph, known.prefix)
        self._decoding.join([job.job_id], known.prefix, [0], [prompt], settings)
        self._running[job.job_id] = _Running(decoder, tokens, seconds, time.perf_counter())
        return seconds is not None

    def _encoded(self, predictor: Predictor, job: Job) -> tuple[Encoded, float | None]:
        """The job's image, and how long that took if it was not known."""
        key = (job.tenant, job.digest, job.system)
        if known := self.cache.get(key):
            return known, None
        began = time.perf_counter()
        photograph = Image.frombytes("RGB", job.size, job.pixels)
        encoded = Encoded(photograph, predictor.encode([photograph]))
        self.cache.put(key, encoded)
        return encoded, time.perf_counter() - began

    def _items(self, step: Step) -> list[Item]:
        running = self._running[step.row]
        items = [self._item(event, running, step) for event in running.decoder.events(step)]
        if step.finished:
            del self._running[step.row]
        return items

    def _item(self, event: Event, running: _Running, step: Step) -> Item:
        if not isinstance(event, Done):
            return event
        return Finished(
            reason="length" if step.ids else "stop",  # the token that ends an answer is no part of it
            prompt_tokens=running.prompt_tokens,
            new_tokens=len(event.answer.token_ids),
            encode_seconds=running.encode_seconds,
            decode_seconds=time.perf_counter() - running.began,
        )


def _answer(turn: Turn) -> Answer:
    targets = tuple(Target(turn.text[start:end], (start, end), NO_MASK, 0.0) for start, end in turn.spans)
    return Answer(turn.question, turn.text, targets, (1, 1))
