"""Dynamic batching: questions join the running batch and leave it when their answers are complete.

Independent of processes and HTTP: jobs go in, events come out step by step.
"""

import time
from collections import deque
from dataclasses import dataclass

from cachetools import LRUCache
from PIL import Image

from pixellm.imaging import masks
from pixellm.inference.base_predictor import AnswerDecoder, BasePredictor, Encoded, Step
from pixellm.serve.messages import (
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    ImageJob,
    Job,
    PastTurn,
    RefineJob,
    WorkerSettings,
)
from pixellm.types import Answer, Done, Event, Target

NO_MASK = masks.as_text(masks.empty(1, 1))  # the prompt uses only text and spans of earlier turns

CacheKey = tuple[str, str, str | None]  # tenant, digest of the image, system text
JobEvents = list[tuple[int, AnswerEvent]]  # events with their job's id


@dataclass(frozen=True)
class EncodedImage:
    """Image with its features and key-value prefix."""

    image: Image.Image
    prefix: Encoded

    @property
    def nbytes(self) -> int:
        """Size of pixels, features, keys and values."""
        return 3 * self.image.width * self.image.height + self.prefix.nbytes


@dataclass
class _RunningJob:
    decoder: AnswerDecoder
    prompt_tokens: int
    encode_seconds: float | None
    start: float


class InferenceEngine:
    """Answer jobs with one model in a batch that changes from step to step."""

    def __init__(self, predictor: BasePredictor, settings: WorkerSettings) -> None:
        self.predictor = predictor.with_prompt(None, settings.max_prompt_tokens)
        self.settings = settings
        self.cache: LRUCache[CacheKey, EncodedImage] = LRUCache(
            settings.cache_bytes, getsizeof=lambda encoded: encoded.nbytes
        )
        self._decoding = predictor.decoding(settings.joint)
        self._waiting: deque[ImageJob] = deque()
        self._running: dict[int, _RunningJob] = {}

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def rows(self) -> int:
        """Number of answers in the batch."""
        return len(self._running)

    def submit(self, job: ImageJob) -> None:
        self._waiting.append(job)

    def cancel(self, job_id: int) -> JobEvents:
        """Drop a waiting or running job."""
        is_known = job_id in self._running or any(job.job_id == job_id for job in self._waiting)
        self._waiting = deque(job for job in self._waiting if job.job_id != job_id)
        if self._running.pop(job_id, None):
            self._decoding.drop([job_id])
        return [(job_id, AnswerFailed("cancelled"))] if is_known else []

    def step(self) -> tuple[JobEvents, int]:
        """Admit waiting jobs, then decode one step of all rows; return its events and the number of rows."""
        events = self._admit()
        rows = self.rows
        for step in self._decoding.step():
            events += [(step.row, event) for event in self._events(step)]
        return events, rows

    def _admit(self) -> JobEvents:
        """Fill the batch, with at most one new image or refinement per step: they delay the running answers."""
        events: JobEvents = []
        delayed = False
        while self._waiting and self.rows < self.settings.batch_size and not delayed:
            job = self._waiting.popleft()
            try:
                if isinstance(job, RefineJob):
                    events += [(job.job_id, event) for event in self._refine(job)]
                    delayed = True
                else:
                    delayed = self._join(job)
            except ValueError as error:
                events.append((job.job_id, AnswerFailed("invalid", str(error))))
        return events

    def _refine(self, job: RefineJob) -> list[AnswerEvent]:
        """Return the refined target, and the end of the job."""
        encoded, seconds = self._encode(self.predictor, job, None)
        start = time.perf_counter()
        target = self.predictor.refine_encoded(encoded.prefix, encoded.image, job.target, job.marks)
        return [target, AnswerFinished("refined", 0, 0, seconds, time.perf_counter() - start)]

    def _join(self, job: Job) -> bool:
        """Add a job to the batch; return True if its image had to be encoded."""
        predictor = self.predictor
        if job.system is not None:
            predictor = predictor.with_prompt(job.system, None)
        prompt = predictor.prompt_ids(job.question, [_answer(turn) for turn in job.history])
        sampling = predictor.settings(**job.sampling)
        encoded, seconds = self._encode(predictor, job, job.system)
        tokens = predictor.prefix_tokens(encoded.prefix) + len(prompt)
        decoder = AnswerDecoder(self.predictor, job.question, encoded.image, encoded.prefix, min_score=job.min_score)
        self._decoding.join([job.job_id], encoded.prefix, [0], [prompt], sampling)
        self._running[job.job_id] = _RunningJob(decoder, tokens, seconds, time.perf_counter())
        return seconds is not None

    def _encode(self, predictor: BasePredictor, job: ImageJob, system: str | None) -> tuple[EncodedImage, float | None]:
        """Return the job's encoded image, and the seconds it took; None for a cache hit."""
        key = (job.tenant, job.digest, system)
        if cached := self.cache.get(key):
            return cached, None
        start = time.perf_counter()
        image = Image.frombytes("RGB", job.size, job.pixels)
        encoded = EncodedImage(image, predictor.encode([image]))
        if encoded.nbytes <= self.cache.maxsize:
            self.cache[key] = encoded
        return encoded, time.perf_counter() - start

    def _events(self, step: Step) -> list[AnswerEvent]:
        running = self._running[step.row]
        events = [self._to_message(event, running, step) for event in running.decoder.events(step)]
        if step.finished:
            del self._running[step.row]
        return events

    def _to_message(self, event: Event, running: _RunningJob, step: Step) -> AnswerEvent:
        if not isinstance(event, Done):
            return event
        return AnswerFinished(
            reason="length" if step.ids else "stop",  # the end-of-answer token is not part of the answer
            prompt_tokens=running.prompt_tokens,
            new_tokens=len(event.answer.token_ids),
            encode_seconds=running.encode_seconds,
            decode_seconds=time.perf_counter() - running.start,
        )


def _answer(turn: PastTurn) -> Answer:
    # Without phrases: spans may overlap, and their copies would take many times the memory of the text.
    targets = tuple(Target("", span, NO_MASK) for span in turn.spans)
    return Answer(turn.question, turn.text, targets, (1, 1))
