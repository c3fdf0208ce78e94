"""A bounded queue in front of a worker process, which is replaced when it dies.

Only as many questions as the worker can have a use for are sent to it; the others wait here, so that they survive its
death, and cost nothing when whoever asked has gone.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from dataclasses import replace

from pixellm.serve.errors import ApiError
from pixellm.serve.messages import Cancel, Failed, Finished, Item, Job, Progress, Ready, Start
from pixellm.serve.metrics import Metrics
from pixellm.serve.settings import ServeSettings
from pixellm.serve.worker_process import WorkerProcess
from pixellm.types import Target

logger = logging.getLogger(__name__)
AHEAD = 2  # questions that a worker has besides those it answers, so that it need not wait for the next
FIRST_PAUSE, LONGEST_PAUSE, STEADY = (
    0.5,
    30.0,
    60.0,
)  # seconds between restarts; after a life this long: the first again


class Ticket:
    """A question on its way; its last item is `Finished`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.items: asyncio.Queue[Item] = asyncio.Queue()
        self.queued = time.perf_counter()

    async def next(self, timeout: float) -> Item:
        """The next item, within some seconds.

        Raises:
            TimeoutError: there is none by then.
            ApiError: there will be no answer.
        """
        # Not wait_for: where an item is there already, that of Python 3.11 passes over a cancellation.
        async with asyncio.timeout(max(0.0, timeout)):
            item = await self.items.get()
        if isinstance(item, Failed):
            raise _refusal(item)
        return item


def _refusal(failed: Failed) -> ApiError:
    if failed.kind == "invalid":
        return ApiError(400, failed.message)
    return ApiError(503, failed.message or "The question was taken back.", "worker_lost")


class Dispatcher:
    """Sends questions to a worker and their answers back.

    Args:
        start: what the worker loads.
        settings: `max_queue` and `stall_timeout`.
        metrics: is told of everything.
    """

    def __init__(self, start: Start, settings: ServeSettings, metrics: Metrics) -> None:
        self.start, self.settings, self.metrics = start, settings, metrics
        self.worker: WorkerProcess | None = None
        self.ready = False
        self._ids = itertools.count()
        self._queue: deque[Ticket] = deque()
        self._sent: dict[int, Ticket] = {}
        self._supervisor: asyncio.Task | None = None

    def open(self) -> asyncio.Task:
        """Start the first worker. The task ends by itself only if that one never gets ready."""
        self._supervisor = asyncio.create_task(self._supervise())
        return self._supervisor

    async def close(self) -> None:
        """End the worker; what is still waiting fails."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._fail([*self._sent.values(), *self._queue], "The server is shutting down.")
        self._queue.clear()

    def submit(self, job: Job) -> Ticket:
        """Queue a question; its `job_id` is given here.

        Raises:
            ApiError: 503, the queue is full.
        """
        if len(self._queue) >= self.settings.max_queue:
            self.metrics.answers.labels("refused").inc()
            raise ApiError(503, f"{len(self._queue)} questions are waiting already. Try again later.", "queue_full")
        ticket = Ticket(replace(job, job_id=next(self._ids)))
        self._queue.append(ticket)
        self._pump()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Whoever asked is gone; nothing happens if the answer is complete."""
        if ticket in self._queue:
            self._queue.remove(ticket)
            self.metrics.answers.labels("cancelled").inc()
        elif ticket.job.job_id in self._sent and self.worker is not None:
            self.worker.send(Cancel(ticket.job.job_id))
        self._count()

    def _pump(self) -> None:
        while self.ready and self.worker and self._queue and len(self._sent) < self.start.batch_size + AHEAD:
            ticket = self._queue.popleft()
            self._sent[ticket.job.job_id] = ticket
            self.metrics.stage.labels("queue").observe(time.perf_counter() - ticket.queued)
            self.worker.send(ticket.job)
        self._count()

    def _count(self) -> None:
        self.metrics.queued.set(len(self._queue))
        self.metrics.running.set(len(self._sent))

    async def _supervise(self) -> None:
        pause, lived = FIRST_PAUSE, 0
        while True:
            began = time.monotonic()
            worker = self.worker = WorkerProcess(self.start)
            try:
                await self._listen(worker)
            finally:
                was_ready, self.ready, self.worker = self.ready, False, None
                self.metrics.ready.set(0)
                status = await asyncio.shield(worker.close())
            lived += was_ready
            self._fail(list(self._sent.values()), "The model's process died. It is being restarted; try again.")
            if not lived:
                raise RuntimeError(f"the model could not be loaded (exit status {status} of its process)")
            self.metrics.restarts.inc()
            pause = FIRST_PAUSE if time.monotonic() - began > STEADY else min(2 * pause, LONGEST_PAUSE)
            logger.error("worker %d died (exit status %s); another starts in %.1f s", worker.pid, status, pause)
            await asyncio.sleep(pause)

    async def _listen(self, worker: WorkerProcess) -> None:
        """Until a worker is gone, or had to be killed because it says nothing."""
        while True:
            try:
                async with asyncio.timeout(self.settings.stall_timeout):
                    message = await worker.messages.get()
            except TimeoutError:
                if not self._sent:
                    continue
                logger.error("worker %d said nothing for %.0f s", worker.pid, self.settings.stall_timeout)
                worker.kill()
                return
            if message is None:
                return
            if isinstance(message, Ready):
                self.ready = True
                self.metrics.ready.set(1)
                logger.info("worker %d is ready", worker.pid)
            else:
                self._spread(message)
            self._pump()

    def _spread(self, progress: Progress) -> None:
        if progress.rows:
            self.metrics.batch.observe(progress.rows)
        self.metrics.cached.set(progress.cached_bytes)
        for job_id, item in progress.items:
            if isinstance(item, Finished | Failed):
                ticket = self._sent.pop(job_id, None)
                self._ended(item)
            else:
                ticket = self._sent.get(job_id)
                self.metrics.masks.inc(isinstance(item, Target))
            if ticket is not None:
                ticket.items.put_nowait(item)

    def _ended(self, item: Finished | Failed) -> None:
        metrics = self.metrics
        if isinstance(item, Failed):
            metrics.answers.labels(item.kind).inc()
            return
        metrics.answers.labels(item.reason).inc()
        metrics.tokens.labels("prompt").inc(item.prompt_tokens)
        metrics.tokens.labels("new").inc(item.new_tokens)
        metrics.images.labels("hit" if item.encode_seconds is None else "miss").inc()
        metrics.stage.labels("decode").observe(item.decode_seconds)
        if item.encode_seconds is not None:
            metrics.stage.labels("encode").observe(item.encode_seconds)

    def _fail(self, tickets: list[Ticket], message: str) -> None:
        for ticket in tickets:
            failed = Failed("lost", message)
            self._ended(failed)
            ticket.items.put_nowait(failed)
        self._sent.clear()
        self._count()
