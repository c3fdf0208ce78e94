"""Bounded queue in front of a worker process, which is replaced when it dies, or by one with a new model.

The worker gets only as many questions as it can use; the others wait here, where they survive its death and can be
cancelled for free.
"""

import asyncio
import itertools
import logging
import math
import os
import time
from collections import deque
from dataclasses import replace

from pixellm.serve.errors import ApiError
from pixellm.serve.messages import (
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    CancelJob,
    ImageJob,
    Progress,
    WorkerFailed,
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

    def __init__(self, job: ImageJob, due: float) -> None:
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


class RunningWorker:
    """Worker process with the questions that it was sent, by job id.

    `loaded` is set once its model is; `failure` says why it never will be; `ended` gives the exit status.
    """

    ended: "asyncio.Task[int]"

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings, self.process = settings, WorkerProcess(settings)
        self.sent: dict[int, PendingAnswer] = {}
        self.loaded = asyncio.Event()
        self.failure = ""
        self.takes_prompts: bool | None = None  # None until it is loaded
        self.started = time.monotonic()
        self.is_retired = False

    @property
    def has_room(self) -> bool:
        """Return whether it takes a further question now."""
        return self.loaded.is_set() and len(self.sent) < self.settings.batch_size + PREFETCH

    def retire(self) -> None:
        """Let the process finish what it was sent, then exit."""
        self.is_retired = True
        if not self.sent:
            self.process.stop()


class Dispatcher:
    """Send questions to a worker, and its events to whoever waits for the answer.

    Args:
        worker_settings: model and limits of the worker.
        settings: `max_queue` and `stall_timeout`.
        metrics: receives all counts and times.
    """

    def __init__(self, worker_settings: WorkerSettings, settings: ServeSettings, metrics: Metrics) -> None:
        self.worker_settings, self.settings, self.metrics = _pinned(worker_settings), settings, metrics
        self._active: RunningWorker | None = None
        self._workers: set[RunningWorker] = set()  # retired ones, and one that is loading, among them
        self._is_closed = False
        self._ids = itertools.count()
        self._queue: deque[PendingAnswer] = deque()
        self._supervisor: asyncio.Task | None = None

    @property
    def worker(self) -> WorkerProcess | None:
        """The process that gets further questions."""
        return self._active and self._active.process

    @property
    def ready(self) -> bool:
        return self._active is not None and self._active.loaded.is_set()

    @property
    def takes_prompts(self) -> bool | None:
        """Return whether the model corrects masks; None until one has been loaded."""
        return self._active and self._active.takes_prompts

    def open(self) -> asyncio.Task:
        """Start the first worker; the returned task fails if that one cannot load the model."""
        self._supervisor = asyncio.create_task(self._supervise())
        return self._supervisor

    async def close(self) -> None:
        """Fail all open questions and stop the workers."""
        self.end_answers()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        left = [worker.ended for worker in self._workers]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def end_answers(self) -> None:
        """Fail all open questions and refuse further ones: the server is shutting down."""
        self._is_closed = True
        for worker in self._workers:
            self._fail(worker, CLOSING)
        while self._queue:
            self._end(self._queue.popleft(), CLOSING)
        self._count()

    async def reload(self, worker_settings: WorkerSettings) -> None:
        """Send further questions to a new worker once it is ready; the earlier one finishes its own, and exits.

        Raises:
            RuntimeError: the new model cannot be loaded; the earlier one goes on.
        """
        worker_settings = _pinned(worker_settings)
        fresh = self._start(worker_settings)
        loading = asyncio.create_task(fresh.loaded.wait())
        try:
            await asyncio.wait([loading, fresh.ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            loading.cancel()
        if not fresh.loaded.is_set():
            raise RuntimeError(_not_loaded(fresh, await fresh.ended))
        earlier, self._active = self._active, fresh
        self.worker_settings = worker_settings
        if earlier is not None:
            earlier.retire()
        self._send_next()

    def submit(self, job: ImageJob, due: float = math.inf) -> PendingAnswer:
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
        for worker in self._workers:
            if pending.job.job_id in worker.sent:
                worker.process.send(CancelJob(pending.job.job_id))
        self._count()

    def _send_next(self) -> None:
        while self._queue and self._active is not None and self._active.has_room:
            pending = self._queue.popleft()
            self._active.sent[pending.job.job_id] = pending
            self.metrics.stage.labels("queue").observe(time.perf_counter() - pending.queued_at)
            self._active.process.send(pending.job)
        self._count()

    def _count(self) -> None:
        self.metrics.queued.set(len(self._queue))
        self.metrics.running.set(sum(len(worker.sent) for worker in self._workers))
        self.metrics.ready.set(self.ready)

    async def _supervise(self) -> None:
        """Keep a worker running, whichever `reload` chose."""
        delay, was_ever_ready = MIN_DELAY, False
        while True:
            worker = self._active = self._active or self._start(self.worker_settings)
            status = await worker.ended
            was_ever_ready |= worker.loaded.is_set()
            if worker is not self._active and self._active is not None:  # it was replaced
                continue
            if not was_ever_ready:
                raise RuntimeError(_not_loaded(worker, status))
            self.metrics.restarts.inc()
            delay = MIN_DELAY if time.monotonic() - worker.started > STABLE_AFTER else min(2 * delay, MAX_DELAY)
            logger.error("worker %d died (exit status %s); restart in %.1f s", worker.process.pid, status, delay)
            await asyncio.sleep(delay)

    def _start(self, settings: WorkerSettings) -> RunningWorker:
        worker = RunningWorker(settings)
        self._workers.add(worker)
        worker.ended = asyncio.create_task(self._run(worker))
        return worker

    async def _run(self, worker: RunningWorker) -> int:
        """Handle a worker's messages until it has ended; return its exit status. What it leaves unanswered fails."""
        try:
            await self._listen(worker)
        finally:
            if worker is self._active:
                self._active = None
            self._count()
            status = await asyncio.shield(worker.process.close())
            self._fail(worker, "The worker process died and is being restarted. Try again.")
            self._workers.remove(worker)
        return status

    async def _listen(self, worker: RunningWorker) -> None:
        """Handle the messages of a worker until it exits, or is killed because it has stalled."""
        while True:
            try:
                async with asyncio.timeout(self.settings.stall_timeout):
                    message = await worker.process.messages.get()
            except TimeoutError:
                if not worker.sent:
                    continue
                logger.error("worker %d stalled for %.0f s", worker.process.pid, self.settings.stall_timeout)
                worker.process.kill()
                return
            if message is None:
                return
            if isinstance(message, WorkerReady):
                worker.takes_prompts = message.takes_prompts
                worker.loaded.set()
                logger.info("worker %d is ready", worker.process.pid)
            elif isinstance(message, WorkerFailed):
                worker.failure = message.reason
            else:
                self._deliver(worker, message)
            self._send_next()

    def _deliver(self, worker: RunningWorker, progress: Progress) -> None:
        if progress.rows:
            self.metrics.batch.observe(progress.rows)
        self.metrics.cached.set(progress.cached_bytes)
        for job_id, event in progress.events:
            if isinstance(event, AnswerFinished | AnswerFailed):
                pending = worker.sent.pop(job_id, None)
                self._record(event)
            else:
                pending = worker.sent.get(job_id)
                self.metrics.masks.inc(isinstance(event, Target))
            if pending is not None:
                pending.queue.put_nowait(event)
        if worker.is_retired and not worker.sent:
            worker.process.stop()

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

    def _fail(self, worker: RunningWorker, message: str) -> None:
        while worker.sent:
            self._end(worker.sent.popitem()[1], message)
        self._count()

    def _end(self, pending: PendingAnswer, message: str) -> None:
        event = AnswerFailed("lost", message)
        self._record(event)
        pending.queue.put_nowait(event)


def _not_loaded(worker: RunningWorker, status: int) -> str:
    reason = worker.failure or f"exit status {status} of its process"
    return f"the model could not be loaded: {reason}"


def _pinned(settings: WorkerSettings) -> WorkerSettings:
    """Return the settings with the model's directory itself: a link may lead elsewhere when a worker is restarted."""
    return replace(settings, model=os.path.realpath(settings.model))
