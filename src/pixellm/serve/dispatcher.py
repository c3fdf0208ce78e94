"""Bounded queue in front of a worker process, which is replaced when it dies.

The worker gets only as many questions as it can use; the others wait here, where they survive its death and can be
cancelled for free.
"""

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from dataclasses import replace

from pixellm.serve.errors import ApiError
from pixellm.serve.messages import (
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    CancelJob,
    Job,
    Progress,
    RefineJob,
    WorkerReady,
    WorkerSettings,
)
from pixellm.serve.metrics import Metrics
from pixellm.serve.settings import ServeSettings
from pixellm.serve.worker_process import WorkerProcess
from pixellm.types import Target

logger = logging.getLogger(__name__)
CLOSING = "The server is shutting down."
PREFETCH = 2  # questions that a worker holds beyond its batch, so that it never waits for the next
MIN_DELAY, MAX_DELAY = 0.5, 30.0  # seconds before a restart; doubled each time
STABLE_AFTER = 60.0  # seconds of uptime that reset the delay


class PendingAnswer:
    """Queued question or refinement with its events, due at `due`; the last one is `AnswerFinished`."""

    def __init__(self, job: Job | RefineJob, due: float) -> None:
        self.job, self.due = job, due
        self.queue: asyncio.Queue[AnswerEvent] = asyncio.Queue()
        self.queued_at = time.perf_counter()

    async def next_event(self, timeout: float) -> AnswerEvent:
        """Return the next event.

        Raises:
            TimeoutError: there was none within `timeout` seconds.
            ApiError: the question failed.
        """
        # Not wait_for: in Python 3.11 it ignores a cancellation if an event is there already.
        async with asyncio.timeout(max(0.0, timeout)):
            event = await self.queue.get()
        if isinstance(event, AnswerFailed):
            if event.kind == "invalid":
                raise ApiError(400, event.message)
            raise ApiError(503, event.message or "The question was cancelled.", "worker_lost")
        return event


class Dispatcher:
    """Send questions to a worker, and its events to whoever waits for the answer.

    Args:
        worker_settings: model and limits of the worker.
        settings: `max_queue` and `stall_timeout`.
        metrics: receives all counts and times.
    """

    def __init__(self, worker_settings: WorkerSettings, settings: ServeSettings, metrics: Metrics) -> None:
        self.worker_settings, self.settings, self.metrics = worker_settings, settings, metrics
        self.worker: WorkerProcess | None = None
        self.ready = self._is_closed = False
        self.takes_prompts: bool | None = None  # of the model; None until one has been loaded
        self._ids = itertools.count()
        self._queue: deque[PendingAnswer] = deque()
        self._sent: dict[int, PendingAnswer] = {}
        self._supervisor: asyncio.Task | None = None

    def open(self) -> asyncio.Task:
        """Start the first worker; the returned task fails if that one cannot load the model."""
        self._supervisor = asyncio.create_task(self._supervise())
        return self._supervisor

    async def close(self) -> None:
        """Stop the worker and fail all open questions."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self.end_answers()

    def end_answers(self) -> None:
        """Fail all open questions and refuse further ones: the server is shutting down."""
        self._is_closed = True
        answers = [*self._sent.values(), *self._queue]
        self._queue.clear()
        self._fail(answers, CLOSING)

    def submit(self, job: Job | RefineJob, due: float = math.inf) -> PendingAnswer:
        """Queue a question or refinement and set its `job_id`; `due` is the end of its time, by `time.perf_counter`.

        Raises:
            ApiError: 503, the queue is full, or the server is shutting down.
        """
        if self._is_closed:
            raise ApiError(503, CLOSING)
        if len(self._queue) >= self.settings.max_queue:
            self.metrics.answers.labels("refused").inc()
            raise ApiError(503, f"{len(self._queue)} questions are waiting already. Try again later.", "queue_full")
        pending = PendingAnswer(replace(job, job_id=next(self._ids)), due)
        self._queue.append(pending)
        self._send_next()
        return pending

    def cancel(self, pending: PendingAnswer) -> None:
        """Drop a question, unless its answer is complete."""
        if pending in self._queue:
            self._queue.remove(pending)
            self.metrics.answers.labels("cancelled").inc()
        elif pending.job.job_id in self._sent and self.worker is not None:
            self.worker.send(CancelJob(pending.job.job_id))
        self._count()

    def _send_next(self) -> None:
        capacity = self.worker_settings.batch_size + PREFETCH
        while self.ready and self.worker and self._queue and len(self._sent) < capacity:
            pending = self._queue.popleft()
            self._sent[pending.job.job_id] = pending
            self.metrics.stage.labels("queue").observe(time.perf_counter() - pending.queued_at)
            self.worker.send(pending.job)
        self._count()

    def _count(self) -> None:
        self.metrics.queued.set(len(self._queue))
        self.metrics.running.set(len(self._sent))

    async def _supervise(self) -> None:
        delay, was_ever_ready = MIN_DELAY, False
        while True:
            start = time.monotonic()
            worker = self.worker = WorkerProcess(self.worker_settings)
            try:
                await self._listen(worker)
            finally:
                was_ever_ready |= self.ready
                self.ready, self.worker = False, None
                self.metrics.ready.set(0)
                status = await asyncio.shield(worker.close())
            self._fail(list(self._sent.values()), "The worker process died and is being restarted. Try again.")
            if not was_ever_ready:
                raise RuntimeError(f"the model could not be loaded (exit status {status} of its process)")
            self.metrics.restarts.inc()
            delay = MIN_DELAY if time.monotonic() - start > STABLE_AFTER else min(2 * delay, MAX_DELAY)
            logger.error("worker %d died (exit status %s); restart in %.1f s", worker.pid, status, delay)
            await asyncio.sleep(delay)

    async def _listen(self, worker: WorkerProcess) -> None:
        """Handle the messages of a worker until it exits, or is killed because it has stalled."""
        while True:
            try:
                async with asyncio.timeout(self.settings.stall_timeout):
                    message = await worker.messages.get()
            except TimeoutError:
                if not self._sent:
                    continue
                logger.error("worker %d stalled for %.0f s", worker.pid, self.settings.stall_timeout)
                worker.kill()
                return
            if message is None:
                return
            if isinstance(message, WorkerReady):
                self.ready, self.takes_prompts = True, message.takes_prompts
                self.metrics.ready.set(1)
                logger.info("worker %d is ready", worker.pid)
            else:
                self._deliver(message)
            self._send_next()

    def _deliver(self, progress: Progress) -> None:
        if progress.rows:
            self.metrics.batch.observe(progress.rows)
        self.metrics.cached.set(progress.cached_bytes)
        for job_id, event in progress.events:
            if isinstance(event, AnswerFinished | AnswerFailed):
                pending = self._sent.pop(job_id, None)
                self._record(event)
            else:
                pending = self._sent.get(job_id)
                self.metrics.masks.inc(isinstance(event, Target))
            if pending is not None:
                pending.queue.put_nowait(event)

    def _record(self, event: AnswerFinished | AnswerFailed) -> None:
        metrics = self.metrics
        if isinstance(event, AnswerFailed):
            metrics.answers.labels(event.kind).inc()
            return
        metrics.answers.labels(event.reason).inc()
        metrics.tokens.labels("prompt").inc(event.prompt_tokens)
        metrics.tokens.labels("new").inc(event.new_tokens)
        metrics.images.labels("hit" if event.encode_seconds is None else "miss").inc()
        metrics.stage.labels("refine" if event.reason == "refined" else "decode").observe(event.decode_seconds)
        if event.encode_seconds is not None:
            metrics.stage.labels("encode").observe(event.encode_seconds)

    def _fail(self, answers: list[PendingAnswer], message: str) -> None:
        for pending in answers:
            event = AnswerFailed("lost", message)
            self._record(event)
            pending.queue.put_nowait(event)
        self._sent.clear()
        self._count()
