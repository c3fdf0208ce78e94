"""SIGHUP: a new checkpoint takes over while requests run; a bad one, or one that is not there, changes nothing."""

import asyncio
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pixellm.segmenter import load
from pixellm.serve.dispatcher import Dispatcher
from pixellm.serve.errors import ApiError
from pixellm.serve.messages import WorkerSettings
from pixellm.serve.metrics import Metrics
from pixellm.serve.settings import ServeSettings
from tests.e2e.test_serve_worker import job, last
from tests.support import serving
from tests.support.serving import KEY, QUESTIONS, TOKENS


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two checkpoints that answer differently."""
    folder = tmp_path_factory.mktemp("models")
    first = serving.write_model(folder / "first")
    shutil.copytree(first, folder / "second")
    other = load(first)
    with torch.no_grad():
        other.model.get_output_embeddings().weight.copy_(other.model.get_output_embeddings().weight.roll(1, dims=1))
    other.model.save_pretrained(folder / "second")
    return first, folder / "second"


def ask(server, question=QUESTIONS[0], tokens=TOKENS) -> dict:
    files = {"image": ("a.png", serving.png(), "image/png")}
    response = server.http.post("/v1/segment", files=files, data={"question": question, "max_tokens": tokens})
    assert response.status_code == 200, response.text
    return response.json()


def point(link, model) -> None:
    """Let a link lead to another model, atomically."""
    link.with_name("next").symlink_to(model)
    link.with_name("next").rename(link)


def reload(server, outcome="loaded") -> None:
    name = f'pixellm_reloads_total{{outcome="{outcome}"}}'
    before = server.metric(name)
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda: server.metric(name) > before, 180)


def test_requests_in_flight(models, tmp_path):
    first, second = (serving.offline(model, QUESTIONS[0]) for model in models)
    assert first != second
    link = tmp_path / "current"
    link.symlink_to(models[0])
    with serving.serving(link, "--batch-size", "2", keys=(KEY,)) as server:
        worker, answers, ended = server.worker(), [], threading.Event()

        def go_on() -> None:
            while not ended.is_set():
                answers.append(ask(server))

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(go_on) for _ in range(3)]
            try:
                server.wait_for(lambda: len(answers) > 2)
                point(link, models[1])
                reload(server)
                known = len(answers)
                server.wait_for(lambda: len(answers) > known + 6)
            finally:
                ended.set()
            for done in asking:
                done.result()
        assert all(answer in (first, second) for answer in answers)  # none failed, none is of both
        assert [first in answers, second in answers] == [True, True]
        assert answers[-1] == second
        server.wait_for(lambda: not os.path.exists(f"/proc/{worker}"))  # the earlier process has ended
        assert server.worker() != worker
        assert server.metric("pixellm_worker_restarts_total") == 0
        assert ask(server) == second


@pytest.mark.slow
def test_the_earlier_worker_finishes_what_it_has(models):
    async def run():
        first, second = (WorkerSettings(str(model), batch_size=2) for model in models)
        dispatcher = Dispatcher(first, ServeSettings("tiny"), Metrics())
        dispatcher.open()
        try:
            await last(dispatcher.submit(job(2)))  # it is loaded
            earlier = dispatcher.worker.pid
            endless, running = dispatcher.submit(job(50_000)), dispatcher.submit(job(50))
            await running.next_event(60)
            reloading = asyncio.create_task(dispatcher.reload(second))
            assert (await last(running)).new_tokens >= 50
            await reloading
            assert dispatcher.worker.pid != earlier
            assert dispatcher.worker_settings == second
            assert (await last(dispatcher.submit(job(5)))).new_tokens >= 5  # by the new one
            os.kill(earlier, 0)  # the earlier one goes on
            dispatcher.cancel(endless)
            with pytest.raises(ApiError, match="cancelled"):
                await last(endless)
            while os.path.exists(f"/proc/{earlier}"):
                await asyncio.sleep(0.05)
            assert dispatcher.ready
        finally:
            await dispatcher.close()

    asyncio.run(run())


@pytest.mark.slow
def test_a_bad_checkpoint_leaves_the_earlier_one(models, tmp_path, capfd):
    expected = serving.offline(models[0], QUESTIONS[0])
    link, bad = tmp_path / "current", tmp_path / "bad"
    link.symlink_to(models[0])
    shutil.copytree(models[0], bad)
    (bad / "model.safetensors").write_bytes(b"broken")
    with serving.serving(link, keys=(KEY,)) as server:
        worker = server.worker()
        point(link, bad)
        reload(server, "failed")
        assert (server.worker(), server.ready(), ask(server)) == (worker, True, expected)
        assert "the earlier model goes on: the model could not be loaded: " in capfd.readouterr().err
        link.unlink()
        reload(server, "failed")
        assert "does not exist" in capfd.readouterr().err
        os.kill(worker, signal.SIGKILL)  # whatever the link says, it is replaced by one with the model that was served
        server.wait_for(lambda: not server.ready())
        server.wait_for(server.ready, 180)
        assert ask(server) == expected
        point(link, models[1])
        for _ in range(3):  # several signals while it loads
            server.process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        reload(server)
        assert server.end() == 0
