"""Files from a Hub on the loopback, by the stock client's routes: resumed, checked, tried again."""

import os
import re
import time
from email.utils import formatdate

import pytest
from huggingface_hub import errors, hf_hub_download

from pixellm.hub import download as hub_download
from pixellm.hub.download import RemoteFile, download, downloaded, explained, incomplete, locate
from tests.support.hub import LoopbackHub, point_at, running

REPO = "owner/model"
CONTENT = os.urandom(300_000)


@pytest.fixture
def hub(monkeypatch):
    with running(LoopbackHub({REPO: {"config.json": b'{"a": 1}', "sub/weights.bin": CONTENT}})) as served:
        point_at(served, monkeypatch)
        yield served


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited; nobody really does."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture
def weights(hub) -> RemoteFile:
    file = locate(REPO, "sub/weights.bin", "main")
    assert file is not None
    return file


def test_locate(hub, weights):
    assert (weights.size, weights.commit) == (len(CONTENT), hub.commit(REPO))
    assert weights.sha256 == weights.etag
    small = locate(REPO, "config.json", weights.commit)
    assert small is not None
    assert (small.size, small.sha256) == (8, None)
    assert locate(REPO, "tokenizer.model", "main") is None
    assert locate(REPO, "config.json", "main") == small
    with pytest.raises(errors.RevisionNotFoundError):
        locate(REPO, "config.json", "f" * 40)


def test_the_stock_client_reads_this_hub(hub, tmp_path):
    path = hf_hub_download(REPO, "sub/weights.bin", cache_dir=tmp_path)
    with open(path, "rb") as stream:
        assert stream.read() == CONTENT


def test_whole_file(hub, weights, tmp_path):
    target = tmp_path / "sub" / "weights.bin"
    download(weights, target)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["weights.bin"]
    asked = len(hub.requests)
    download(weights, target)  # it is there: nobody is asked
    assert len(hub.requests) == asked


@pytest.mark.parametrize("begun", [1, 65_536, 299_999, 300_000])
def test_resume(hub, weights, tmp_path, begun):
    target = tmp_path / "weights.bin"
    incomplete(target).write_bytes(CONTENT[:begun])
    assert downloaded(target) == begun
    download(weights, target)
    assert target.read_bytes() == CONTENT
    assert hub.ranges() == ([f"bytes={begun}-"] if begun < len(CONTENT) else [])
    assert hub.sent == len(CONTENT) - begun


def test_a_partial_file_that_is_too_long_or_wrong_is_downloaded_anew(hub, weights, tmp_path):
    for begun in (CONTENT + b"more", b"\0" * 1000):
        target = tmp_path / f"weights-{len(begun)}.bin"
        incomplete(target).write_bytes(begun)
        download(weights, target)
        assert target.read_bytes() == CONTENT


def test_cut_connections(hub, weights, waits, tmp_path):
    hub.faults.cuts, hub.faults.cut_after = 2, 100_000
    target = tmp_path / "weights.bin"
    download(weights, target)
    assert target.read_bytes() == CONTENT
    assert hub.ranges() == ["bytes=100000-", "bytes=200000-"]
    assert hub.sent == len(CONTENT)


def test_a_server_that_ignores_ranges(hub, weights, waits, tmp_path):
    hub.faults.ignore_ranges = True
    target = tmp_path / "weights.bin"
    incomplete(target).write_bytes(CONTENT[:1000])
    download(weights, target)
    assert target.read_bytes() == CONTENT


def test_rate_limits_are_kept(hub, waits):
    hub.faults.busy, hub.faults.retry_after = 2, "7"
    assert locate(REPO, "config.json", "main") is not None
    assert waits == [7, 7]
    date = formatdate(time.time() + 100, usegmt=True)
    assert hub_download._asked_wait({"Retry-After": date}) == pytest.approx(100, abs=20)


def test_rate_limits_while_downloading(hub, weights, waits, tmp_path):
    hub.faults.busy, hub.faults.retry_after = 3, "5"
    download(weights, tmp_path / "weights.bin")
    assert waits == [5, 5, 5]


def test_a_wait_that_is_too_long_is_refused(hub, waits):
    hub.faults.busy, hub.faults.retry_after = 1, "3600"
    with pytest.raises(ValueError, match=r"HTTP status 429.*Try again"), explained(REPO, ""):
        locate(REPO, "config.json", "main")
    assert waits == []


def test_the_hubs_own_rate_limit_header():
    assert hub_download._asked_wait({"RateLimit": '"resolvers";r=0;t=34', "Retry-After": "1"}) == 34
    assert hub_download._asked_wait({"RateLimit": '"resolvers";r=9;t=34'}) is None
    assert hub_download._asked_wait({"Retry-After": "soon"}) is None


def test_trouble_of_the_server_passes_or_not(hub, weights, waits, tmp_path):
    hub.faults.broken = 2
    download(weights, tmp_path / "weights.bin")
    assert waits == [1, 2]
    hub.faults.broken = 100
    with pytest.raises(ValueError, match="HTTP status 503"), explained(REPO, ""):
        locate(REPO, "config.json", "main")
    assert waits == [1, 2, 1, 2, 4, 8]


def test_damage_on_the_way(hub, weights, tmp_path, capsys):
    hub.faults.corrupt = 1
    target = tmp_path / "weights.bin"
    download(weights, target)
    assert target.read_bytes() == CONTENT
    assert "downloading it again" in capsys.readouterr().err
    hub.faults.corrupt = 2
    with pytest.raises(ValueError, match=r"expected sha256 .*got"):
        download(weights, tmp_path / "other.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


def test_errors_say_what_to_do(hub, waits, monkeypatch):
    def refused(repo_id=REPO):
        with (
            pytest.raises(ValueError, match=re.escape(f"expected the model {repo_id}")) as error,
            explained(repo_id, "Mistyped?"),
        ):
            locate(repo_id, "config.json", "main")
        return str(error.value)

    assert "no such model (or a private one). Mistyped? For a private one: hf auth login" in refused("owner/none")
    hub.faults.gated = True
    assert "it is gated. Ask for access" in refused()
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{filename}"
    )
    assert "Try again; what was downloaded is kept." in refused()
    assert waits == [1, 2]  # nobody without a network waits for long


def test_a_full_disk_is_not_tried_again(hub, weights, waits, tmp_path, monkeypatch):
    def full(*_args, **_settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub_download, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        download(weights, tmp_path / "weights.bin")
    assert waits == []
