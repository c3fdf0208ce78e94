"""The worker's process from the server's side: one that hangs is replaced; what had not reached it waits."""

import asyncio
import os
import signal

import pytest

from pixellm.serve.dispatcher import PREFETCH, Dispatcher, PendingAnswer
from pixellm.serve.errors import ApiError
from pixellm.serve.messages import AnswerFinished, Job, WorkerSettings
from pixellm.serve.metrics import Metrics
from pixellm.serve.settings import ServeSettings
from tests.support import serving, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return serving.write_model(tmp_path_factory.mktemp("model"))


def job(tokens: int) -> Job:
    picture = tiny.picture(60, 40)
    return Job(-1, "a", "digest", picture.tobytes(), picture.size, "table", sampling={"max_new_tokens": tokens})


async def last(ticket: PendingAnswer):
    while not isinstance(item := await ticket.next_event(60), AnswerFinished):
        pass
    return item


def test_a_worker_that_hangs(model):
    async def run():
        settings = ServeSettings("tiny", max_queue=5, stall_timeout=1.5)
        dispatcher = Dispatcher(WorkerSettings(str(model), batch_size=1), settings, Metrics())
        dispatcher.open()
        try:
            await last(dispatcher.submit(job(2)))  # it is loaded
            first = dispatcher.worker.pid
            os.kill(first, signal.SIGSTOP)
            tickets = [dispatcher.submit(job(50)) for _ in range(1 + PREFETCH + 2)]
            for lost in tickets[: 1 + PREFETCH]:  # these it had
                with pytest.raises(ApiError) as caught:
                    await last(lost)
                assert (caught.value.status, caught.value.code) == (503, "worker_lost")
            for waiting in tickets[1 + PREFETCH :]:
                assert (await last(waiting)).new_tokens >= 50
            assert dispatcher.worker.pid != first
            with pytest.raises(ProcessLookupError):
                os.kill(first, 0)
        finally:
            await dispatcher.close()

    asyncio.run(run())


def test_the_end_fails_what_is_left(model):
    async def run():
        dispatcher = Dispatcher(WorkerSettings(str(model), batch_size=1), ServeSettings("tiny", max_queue=2), Metrics())
        dispatcher.open()
        tickets = [dispatcher.submit(job(50)) for _ in range(2)]  # while it loads
        with pytest.raises(ApiError, match="waiting already"):
            dispatcher.submit(job(50))
        dispatcher.cancel(tickets[0])
        tickets[0] = dispatcher.submit(job(50))  # there is room again
        await dispatcher.close()
        for ticket in tickets:
            with pytest.raises(ApiError, match="shutting down"):
                await last(ticket)

    asyncio.run(run())
