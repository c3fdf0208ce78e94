"""`pixellm muse generate --engine ray` on a local cluster of several worker processes, one of them killed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from pixellm.muse.journal import Journal
from pixellm.muse.plan import GenerationPlan
from pixellm.muse.quality.checks import check
from pixellm.muse.selection import SelectionRules
from pixellm.utils.server_settings import ServerSettings
from tests.support import muse_source, vlm_server
from tests.support.vlm_server import VlmServer, content, usual_reply

pytest.importorskip("ray", reason="the extra `ray` is not installed")

PIXELLM = Path(sys.executable).with_name("pixellm")
IMAGES = 150


def command(tmp_path: Path, source: tuple[Path, Path], *more: str) -> list[str]:
    arguments = ["--annotations", str(source[0]), "--images", str(source[1]), "--engine", "ray", "--workers", "3"]
    return [str(PIXELLM), "muse", "generate", str(tmp_path / "out"), *arguments, *more]


def workers(of: int) -> list[psutil.Process]:
    """Those that ask, of the cluster that a process started."""
    return [
        one
        for one in psutil.Process(of).children(recursive=True)
        if "MapBatches(MuseWorker)" in " ".join(one.cmdline())
    ]


@pytest.mark.slow
def test_a_worker_is_killed(tmp_path) -> None:
    """Nothing is lost or doubled, what was written is not paid again, and accounts are exact."""
    source = muse_source.write(tmp_path, IMAGES)
    (tmp_path / "server.yaml").write_text("prices: {vlm: {input: 2.0, output: 10.0}}\nin_flight: 6\n")
    with VlmServer({"429": 0.05, "500": 0.03}, seed=4, latency=0.1) as server:
        more = ["--model", "vlm", "--server", server.url, "--config", str(tmp_path / "server.yaml")]
        arguments = command(tmp_path, source, *more)
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and server.account.replies < IMAGES // 3:
            time.sleep(0.02)
        alive = workers(process.pid)
        assert len(alive) == 3
        alive[0].kill()
        killed_at = server.account.replies
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert IMAGES // 3 <= killed_at < IMAGES
    with Journal(tmp_path / "out") as journal:
        calls, tokens_in, tokens_out, cost = journal.spent()
        made = list(journal.records())
        assert journal.totals() == (IMAGES, IMAGES)
    assert sorted(one.image.image_id for one in made) == list(range(1, IMAGES + 1))
    assert not any(check(one) for one in made)
    assert calls == IMAGES
    assert cost == pytest.approx((2 * tokens_in + 10 * tokens_out) / 1e6)
    assert 0 <= server.account.replies - calls <= 2  # what the killed one had in flight
    assert server.account.most_at_once <= 6
    assert f"{IMAGES:,} records about {IMAGES:,} images" in output


@pytest.mark.slow
def test_a_cap_holds_for_all_workers_together(tmp_path) -> None:
    source = muse_source.write(tmp_path, IMAGES)
    (tmp_path / "server.yaml").write_text("prices: {vlm: {input: 2.0, output: 10.0}}\nmax_cost: 0.2\n")
    with VlmServer(latency=0.02) as server:
        more = ["--model", "vlm", "--server", server.url, "--config", str(tmp_path / "server.yaml")]
        done = subprocess.run(
            command(tmp_path, source, *more), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 2
        assert "the cap of 0.2 USD is reached" in done.stderr
        assert 0 < (2 * server.account.tokens_in + 10 * server.account.tokens_out) / 1e6 <= 0.2
    with Journal(tmp_path / "out") as journal:
        assert journal.spent()[0] == server.account.replies


class Answers:
    """Stands for vLLM, which needs a GPU: the columns are those of `ray.data.llm`."""

    def __call__(self, batch):
        texts = [usual_reply(content(json.loads(one))[0]) for one in batch["messages"]]
        kept = {name: batch[name] for name in ("image_id", "key", "failure")}
        counts = {name: np.full(len(texts), 7) for name in ("num_input_tokens", "num_generated_tokens")}
        return kept | counts | {"generated_text": np.array(texts, dtype=object)}


def test_replies_of_the_cluster_itself(tmp_path) -> None:
    """What stands around vLLM: requests are prepared, replies become records, one photograph fails alone."""
    import ray

    from pixellm.muse.cluster.driver import ClusterGeneration

    annotations, images = muse_source.write(tmp_path, 20)
    (images / "3.jpg").unlink()
    (images / "3.jpg").write_bytes(b"no photograph")
    plan = GenerationPlan(
        annotations, images, None, SelectionRules(), 3, "en", ServerSettings(model="a/model"), "describe", 0
    )
    for module in (sys.modules[__name__], vlm_server):  # workers can't import tests
        ray.cloudpickle.register_pickle_by_value(module)

    def processor(_plan, _workers):
        return lambda data: data.map_batches(Answers, compute=ray.data.ActorPoolStrategy(size=1))

    found = ClusterGeneration(plan, tmp_path / "out", 1, processor=processor).run(lambda *_: None)
    assert found.stopped is None
    assert sum(found.failures.values()) == 1
    assert "3.jpg" in next(iter(found.failures))
    with Journal(tmp_path / "out") as journal:
        made = list(journal.records())
        assert journal.spent()[:3] == (19, 19 * 7, 19 * 7)
    assert sorted(one.image.image_id for one in made) == [i for i in range(1, 21) if i != 3]
    assert {one.provenance.prompt for one in made} == {"describe@1"}
