"""`pixellm muse generate` and `verify` as processes: a real server that fails, kill -9, Ctrl-C, two at once."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pixellm.muse.journal import FILE, Journal
from pixellm.muse.quality.checks import check
from tests.support import muse_source
from tests.support.vlm_server import VlmServer

PIXELLM = Path(sys.executable).with_name("pixellm")
FAULTS = {"429": 0.04, "500": 0.03, "503": 0.02, "408": 0.01, "cut": 0.02, "cut_before": 0.01}
BAD_REPLIES = {"malformed": 0.03, "refusal": 0.02, "wrong": 0.03, "length": 0.01}
CONFIG = "prices: {vlm: {input: 2.0, output: 10.0}}\nretries: 20\n"


def command(tmp_path: Path, source: tuple[Path, Path], server: VlmServer, *more: str) -> list[str]:
    (tmp_path / "server.yaml").write_text(CONFIG)
    arguments = ["--annotations", str(source[0]), "--images", str(source[1]), "--model", "vlm", "--server", server.url]
    return [
        str(PIXELLM),
        "muse",
        "generate",
        str(tmp_path / "out"),
        *arguments,
        "--config",
        str(tmp_path / "server.yaml"),
        *more,
    ]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=False)


def records(folder: Path) -> list:
    with Journal(folder) as journal:
        return list(journal.records())


@pytest.mark.slow
def test_two_thousand_photographs_through_faults(tmp_path) -> None:
    """None is lost or doubled, and the journal's accounts are the server's."""
    source = muse_source.write(tmp_path, 2000)
    with VlmServer(FAULTS | BAD_REPLIES, seed=5, key="sk-secret") as server:
        (tmp_path / "key").write_text("sk-secret")
        done = run(command(tmp_path, source, server, "--in-flight", "32", "--key-file", str(tmp_path / "key")))
    assert done.returncode == 0, done.stderr
    account = server.account
    assert set(account.answered.values()) == {1}
    assert all(account.faults[kind] > 5 for kind in FAULTS | BAD_REPLIES)
    assert account.most_at_once <= 32
    with Journal(tmp_path / "out") as journal:
        calls, tokens_in, tokens_out, cost = journal.spent()
        assert (calls, tokens_in, tokens_out) == (account.replies, account.tokens_in, account.tokens_out)
        assert cost == pytest.approx((2 * tokens_in + 10 * tokens_out) / 1e6, rel=1e-9)
        made = list(journal.records())
        images, count = journal.totals()
        rejects = Counter(one.check for one in journal.rejects())
    assert images == 2000
    assert count == len(made) == len({one.record_id for one in made}) == len({one.image.image_id for one in made})
    # Bad replies are asked for once more; a photograph without a record had two of them, or a refusal.
    assert 1900 <= count < 2000
    assert rejects["refusal"] > 20
    assert rejects["reply"] > 50
    assert rejects["objects"] > 30
    assert not any(check(one) for one in made)
    assert all(one.provenance.engine == "server" and not one.provenance.synthetic for one in made)
    text = f"{done.stdout}{done.stderr}" + "".join(
        path.read_bytes().decode("latin-1") for path in (tmp_path / "out").iterdir()
    )
    assert "sk-secret" not in text
    assert "replies broke off" in done.stdout


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path) -> None:
    """Nothing is lost or doubled, and what was written is not paid again."""
    source = muse_source.write(tmp_path, 240)
    kills, rng = 0, random.Random(7)
    with VlmServer({"429": 0.05, "cut": 0.05}, seed=2, latency=0.02) as server:
        arguments = command(tmp_path, source, server, "--in-flight", "4")
        while kills < 4:
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            before = server.account.replies
            while process.poll() is None and server.account.replies < before + 25:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.1))
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
        done = run(arguments)
        assert done.returncode == 0, done.stderr
        asked = server.account.requests
        again = run(arguments)
        assert again.returncode == 0
        assert server.account.requests == asked  # a finished run asks nothing
    assert kills >= 2
    with Journal(tmp_path / "out") as journal:
        calls, killed = journal.spent()[0], journal.killed()[0]
        assert journal.totals() == (240, 240)
    assert sorted(one.image.image_id for one in records(tmp_path / "out")) == list(range(1, 241))
    assert calls == 240
    # Of a killed run, only what was in flight may have been answered without being written.
    assert 0 <= server.account.replies - calls <= killed <= 4 * kills
    assert f"{killed:,} requests at most were in flight at a kill" in done.stdout
    assert max(server.account.answered.values()) <= 2


def test_ctrl_c_finishes_what_is_in_flight(tmp_path) -> None:
    source = muse_source.write(tmp_path, 200)
    with VlmServer(latency=0.3) as server:
        arguments = command(tmp_path, source, server, "--in-flight", "8")
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while server.account.requests < 12:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "finishing what is in flight" in errors
        assert "Traceback" not in errors
    with Journal(tmp_path / "out") as journal:
        images, count = journal.totals()
        assert images == count == journal.spent()[0] == server.account.replies == server.account.requests
    assert 12 <= count <= 24


def test_one_process_at_a_time(tmp_path) -> None:
    source = muse_source.write(tmp_path, 200)
    with VlmServer(latency=0.1) as server:
        arguments = command(tmp_path, source, server)
        first = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while server.account.requests < 5:
                time.sleep(0.01)
            second = run(arguments)
        finally:
            first.kill()
            first.wait()
    assert second.returncode == 2
    assert "another process" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_cap_on_cost(tmp_path) -> None:
    source = muse_source.write(tmp_path, 100)
    with VlmServer() as server:
        done = run(command(tmp_path, source, server, "--max-cost", "0.12"))
        assert done.returncode == 2
        assert "the cap of 0.12 USD is reached" in done.stderr
        assert 0.08 < (2 * server.account.tokens_in + 10 * server.account.tokens_out) / 1e6 <= 0.12
        assert run(command(tmp_path, source, server, "--max-cost", "30")).returncode == 0
        assert server.account.replies == len(records(tmp_path / "out")) == 100
        assert set(server.account.answered.values()) == {1}


def test_a_wrong_key_and_nobody_there(tmp_path) -> None:
    source = muse_source.write(tmp_path, 5)
    with VlmServer(key="another") as server:
        done = run(command(tmp_path, source, server))
    assert done.returncode == 2
    assert "Check URL, model and key" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "server.yaml").write_text("retries: 0\n")
    arguments = [one for one in command(tmp_path, source, server)]
    (tmp_path / "server.yaml").write_text("retries: 0\n")
    done = run(arguments)
    assert done.returncode == 2
    assert "left for the next run: 5 · the server gave no answer in 1 tries: no connection" in done.stdout


def test_dry_run(tmp_path) -> None:
    source = muse_source.write(tmp_path, 50)
    with VlmServer() as server:
        done = run(command(tmp_path, source, server, "--dry-run", "--limit", "20"))
    assert done.returncode == 0, done.stderr
    assert server.account.requests == 0
    assert "20 images would be asked about" in done.stdout
    assert "USD" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_second_look(tmp_path) -> None:
    """The verifier's "no" rejects a record; its calls are paid once and counted."""
    source = muse_source.write(tmp_path, 30)
    with VlmServer() as server:
        assert run(command(tmp_path, source, server)).returncode == 0
    spent = server.account.tokens_in

    def judge(text: str) -> str:
        return json.dumps({"verdict": "no" if "Saffron" in text else "yes", "reason": "there is no guest"})

    look = ["muse", "verify", str(tmp_path / "out"), "--images", str(source[1]), "--model", "vlm"]
    with VlmServer({"503": 0.1, "cut": 0.1}, seed=1, reply=judge) as server:
        arguments = [str(PIXELLM), *look, "--server", server.url, "--config", str(tmp_path / "server.yaml")]
        before = records(tmp_path / "out")
        bad = {one.record_id for one in before if "Saffron" in one.question}
        done = run(arguments)
        assert done.returncode == 0, done.stderr
        assert server.account.replies == 30
        asked = server.account.requests
        assert run(arguments).returncode == 0
        assert server.account.requests == asked
    assert bad
    assert {one.record_id for one in records(tmp_path / "out")} == {one.record_id for one in before} - bad
    with Journal(tmp_path / "out") as journal:
        assert {(one.record_id, one.check) for one in journal.rejects()} == {(one, "verifier") for one in bad}
        assert journal.spent()[1] == spent + server.account.tokens_in


def test_template_needs_no_server(tmp_path) -> None:
    annotations, images = muse_source.write(tmp_path, 40)
    arguments = ["muse", "generate", str(tmp_path / "out"), "--annotations", str(annotations), "--images", str(images)]
    environment = os.environ | {"OPENAI_BASE_URL": "http://127.0.0.1:1"}
    done = subprocess.run(
        [str(PIXELLM), *arguments, "--engine", "template"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    made = records(tmp_path / "out")
    assert len(made) > 40
    assert all(one.provenance.synthetic and one.provenance.engine == "template" for one in made)
    assert not any(check(one) for one in made)


def test_a_broken_journal_is_not_overwritten(tmp_path) -> None:
    annotations, images = muse_source.write(tmp_path, 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).write_bytes(b"not a journal at all" * 100)
    arguments = ["muse", "generate", str(tmp_path / "out"), "--annotations", str(annotations), "--images", str(images)]
    done = run([str(PIXELLM), *arguments, "--engine", "template"])
    assert done.returncode == 2
    assert "expected a journal" in done.stderr
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "out" / FILE).execute("SELECT 1 FROM calls")


def test_a_mistake_leaves_nothing_in_the_way(tmp_path) -> None:
    """A file that is no source, and the folder of other images; then the right ones, with the same output."""
    annotations, images = muse_source.write(tmp_path, 30)
    (tmp_path / "other.json").write_text('{"images": [], "annotations": [], "categories": []}')
    out = [str(PIXELLM), "muse", "generate", str(tmp_path / "out"), "--engine", "template"]
    done = run([*out, "--annotations", str(tmp_path / "other.json"), "--images", str(images)])
    assert done.returncode == 2
    assert "expected images and categories" in done.stderr
    done = run([*out, "--annotations", str(annotations), "--images", str(tmp_path)])
    assert done.returncode == 2
    assert "is --images the right folder?" in done.stderr
    assert done.stderr.count("missing") == 1
    assert run([*out, "--annotations", str(annotations), "--images", str(images)]).returncode == 0
    assert len({one.image.image_id for one in records(tmp_path / "out")}) > 20


def test_vllm_is_missing(tmp_path) -> None:
    annotations, images = muse_source.write(tmp_path, 3)
    more = ["--engine", "ray", "--backend", "vllm", "--model", "a/model"]
    arguments = ["muse", "generate", str(tmp_path / "out"), "--annotations", str(annotations), "--images", str(images)]
    done = run([str(PIXELLM), *arguments, *more])
    assert done.returncode == 2
    assert "pip install 'ray[llm]'" in done.stderr
    assert "Traceback" not in done.stderr
