"""Atomic writes, and locks between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pixellm.utils.files import (
    atomic_directory,
    atomic_write,
    clear_leftovers,
    content_digest,
    exclusive_lock,
    write_text,
)

HOLD = """
import sys
from pathlib import Path
from pixellm.utils.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_another_process_is_refused_until_the_lock_is_free(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"expected to work on .*results\.jsonl alone.*Wait"), exclusive_lock(path):
            pass
        other.kill()  # whoever held it need not have let it go
        other.wait()
    with exclusive_lock(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.json"
    with atomic_write(path) as temporary:
        temporary.write_text("first")
        assert temporary.suffix == ".json"
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text(f"half of it: {1 / 0}")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(FileNotFoundError), atomic_directory(out) as directory:
        (directory / "weights").rename(directory / "model")
    assert list(out.parent.iterdir()) == []
    out.mkdir()  # an empty one may be there
    with atomic_directory(out) as directory:
        (directory / "weights").touch(mode=0o600)
        assert list(out.iterdir()) == []
    assert list(out.parent.iterdir()) == [out]
    assert out.stat().st_mode == tmp_path.joinpath("new").stat().st_mode
    assert (out / "weights").stat().st_mode & 0o444 == out.stat().st_mode & 0o444
    with pytest.raises(ValueError, match="expected a new or empty directory"), atomic_directory(out):
        pass


def test_leftovers_of_a_killed_process_are_deleted(tmp_path):
    out = tmp_path / "out"
    other = tmp_path / "out2"
    code = "import os, sys; from pathlib import Path; from pixellm.utils.files import atomic_directory\n"
    code += "with atomic_directory(Path(sys.argv[1])):\n    os._exit(0)"
    for path in (out, other):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=dict(os.environ))
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_directory(other):
        clear_leftovers(other)  # what is being written is none
        clear_leftovers(out)
        assert [path.name.startswith(".out2.") for path in tmp_path.iterdir()] == [True]
    assert list(tmp_path.iterdir()) == [other]


def test_links_in_a_circle(tmp_path):
    """Path.resolve raises a RuntimeError there."""
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        write_text(loop, "a")
    with pytest.raises(OSError, match="loop"):
        write_text(loop / "a", "a")


def test_contents_are_read_again_only_where_a_file_changed(tmp_path, monkeypatch):
    memo, folder = tmp_path / "cache" / "memo", tmp_path / "weights"
    (folder / "graphs").mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"trained")
    (folder / "graphs" / "a").write_bytes(b"graph")
    unkept = content_digest(folder, memo)  # the cache is not there yet
    memo.parent.mkdir()
    assert content_digest(folder, memo) == unkept
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
        assert content_digest(folder, memo) == unkept
    times = (folder / "model.bin").stat()
    (folder / "model.bin").write_bytes(b"changed")  # as long, and as old
    os.utime(folder / "model.bin", ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = content_digest(folder, memo)
    assert changed != unkept
    memo.write_text("damaged", encoding="utf-8")
    assert content_digest(folder, memo) == changed
    (folder / "model.bin").rename(folder / "other.bin")
    assert content_digest(folder, memo) != changed
