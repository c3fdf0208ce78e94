"""Released checkpoints by name, from a Hub on the loopback, in their real layouts and file names but small."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from pixellm.cost.memory import BatchScenario, LoadOptions, plan_memory
from pixellm.cost.models import open_cost_model
from pixellm.hub import models, released, room
from pixellm.hub.catalogue import PRECISIONS, RELEASED, find_released
from pixellm.hub.download import incomplete
from pixellm.hub.released import PROVENANCE, directory_of, downloads_of, pull
from pixellm.utils.weights import read_weights
from tests.support import wheels
from tests.support.hub import LoopbackHub, point_at, published, running, without_space

PIXELLM, LISA = RELEASED["pixellm-7b"], RELEASED["lisa-7b"]
FIRST_SHARD = "pytorch_model-00001-of-00002.bin"


@pytest.fixture
def hub(shared, tmp_path, monkeypatch):
    wheels.offline(tmp_path, monkeypatch)
    with running(published(LoopbackHub(), shared)) as served:
        point_at(served, monkeypatch)
        yield served


@pytest.fixture
def converting(monkeypatch):
    """A conversion that records what it reads and writes a model directory, without torch."""
    read: list[list[str]] = []

    def convert(model, plan, vision, out):
        names = [path.name for source in (plan, vision) for path in source.directory.iterdir()]
        read.append([name for name in names if not name.startswith(".")])
        (out / "config.json").write_text('{"model_type": "pixellm"}')

    monkeypatch.setattr(released, "_convert", convert)
    return read


def left(model):
    """What is in the cache beside the model itself, the lock, and the digest of what is shipped."""
    return [
        path.name
        for path in directory_of(model).parent.iterdir()
        if path.suffix != ".lock" and path.name != models.DIGEST and path != directory_of(model)
    ]


# --- the catalogue --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
def test_facts_are_those_of_the_plan(name):
    facts, model = RELEASED[name].facts, open_cost_model(name)
    assert facts.parameters == sum(parameter.numel() for parameter in model.model.parameters())
    for precision in PRECISIONS:
        options = LoadOptions(torch.bfloat16, None if precision == "bfloat16" else precision)
        assert facts.memory[precision] == pytest.approx(plan_memory(model, options, BatchScenario()).total, rel=0.01)
    # The LLM in bf16, pixel modules (SAM's 0.6 B with LISA) in fp32, CLIP in fp32 with its text encoder.
    pixels = 0.66e9 if name.startswith("lisa") else 0.03e9
    assert facts.download == pytest.approx(2 * (facts.parameters - 0.3e9 + pixels) + 1.71e9, rel=0.01)


def test_names_and_ids():
    assert find_released("pixellm-7b") is find_released("MaverickRZW/pixellm-7b") is PIXELLM
    assert find_released("PixelLM-7B") is None
    facts = PIXELLM.facts
    assert facts.precision_within(int(16e9)) == "bfloat16"
    assert facts.precision_within(int(7e9)) == "int4"
    assert facts.precision_within(int(5e9)) is None


# --- the whole way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "reference"),
    [(PIXELLM, "reference"), (LISA, "reference_lisa")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_pull(hub, shared, monkeypatch, model, reference):
    directory = models.resolve(model.name)
    assert directory == directory_of(model)
    assert left(model) == []
    source = json.loads((directory / PROVENANCE).read_text())
    assert source["commit"] == hub.commit(model.released.repo_id)
    assert (source["licence"], source["keys"]["unknown"]) == (model.facts.licence, [])
    # Every key of the checkpoint is used or dropped for a reason, and what is used has kept its values.
    stored, ours = read_weights(shared / reference / "hf_model"), read_weights(directory)
    clip = read_weights(shared / reference / "clip-tiny")
    assert source["keys"]["used"] + len(source["keys"]["dropped"]) == len(stored) + len(clip)
    assert torch.equal(ours["language_model.lm_head.weight"], stored["lm_head.weight"])
    # From now on nobody is asked.
    asked = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (model.name, model.released.repo_id):
        assert models.resolve(name) == models.where(name) == directory
    assert len(hub.requests) == asked
    (info,) = [info for info in models.list_models() if info.name == model.name]
    assert (info.ready, info.path, info.source) == (True, directory, "released")
    assert models.remove(model.name) == info.size
    assert not directory.exists()


def test_only_what_is_read_is_downloaded(hub, converting):
    hub.repositories["openai/clip-vit-large-patch14-336"] |= {"tf_model.h5": b"0" * 10, "README.md": b"card"}
    pull(PIXELLM)
    wanted = {"config.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    shards = {FIRST_SHARD, "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"}
    assert set(converting[0]) == wanted | shards | {"pytorch_model.bin"}
    assert converting[0].count("config.json") == 2
    assert not [path for _, path, _ in hub.requests if "tf_model" in path or "README" in path]


def test_what_the_hubs_cache_holds_is_not_downloaded(hub, converting):
    from huggingface_hub import snapshot_download

    kept = snapshot_download("openai/clip-vit-large-patch14-336")
    asked = len(hub.requests)
    pull(PIXELLM)
    assert not [path for _, path, _ in hub.requests[asked:] if "clip" in path]
    assert os.path.isfile(f"{kept}/config.json")


# --- broken off -----------------------------------------------------------------------------------------------------


def test_a_killed_download_is_continued(hub, converting, tmp_path):
    hub.faults.bytes_per_second = 8e6
    code = "from pixellm.hub import catalogue, released; released.pull(catalogue.RELEASED['pixellm-7b'])"
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    while hub.sent < 3_000_000:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (shard,) = downloads_of(PIXELLM).rglob(FIRST_SHARD + ".incomplete")
    begun, hub.faults.bytes_per_second = shard.stat().st_size, 0
    assert begun > 2_000_000
    (info,) = [info for info in models.list_models() if info.name == "pixellm-7b"]
    assert (info.ready, info.size >= begun) == (False, True)
    directory = models.resolve("pixellm-7b")
    assert (directory / "config.json").is_file()
    assert f"bytes={begun}-" in hub.ranges()
    assert left(PIXELLM) == []


def test_a_killed_conversion_needs_no_network(hub, converting, monkeypatch):
    def killed(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(released, "_convert", killed)
        with pytest.raises(KeyboardInterrupt):
            pull(PIXELLM)
    (directory_of(PIXELLM).parent / ".pixellm-7b.tmp-abc" / "out").mkdir(parents=True)  # as SIGKILL leaves it
    asked = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pull(PIXELLM)
    assert len(hub.requests) == asked
    assert left(PIXELLM) == []


def test_a_kill_before_the_download_is_deleted(hub, converting, monkeypatch):
    directory = pull(PIXELLM)
    downloads_of(PIXELLM).mkdir()
    (downloads_of(PIXELLM) / "weights.bin").write_bytes(b"left")
    assert pull(PIXELLM) == directory
    assert left(PIXELLM) == []


def test_a_new_commit_replaces_what_was_begun(hub, converting):
    old = downloads_of(PIXELLM) / "maverickrzw--PixelLM-7B@0123" / "hf_model"
    old.mkdir(parents=True)
    incomplete(old / FIRST_SHARD).write_bytes(b"old")
    pull(PIXELLM)
    assert hub.ranges() == []
    assert left(PIXELLM) == []


# --- refused --------------------------------------------------------------------------------------------------------


def test_no_room_on_the_disk(hub, converting, monkeypatch):
    without_space(monkeypatch, free=1_000_000)
    with pytest.raises(ValueError, match=r"expected 39\.\d MB free in .* got 1\.0 MB\. .*PIXELLM_CACHE"):
        pull(PIXELLM)
    assert hub.sent == 0
    assert converting == []


def test_no_memory(hub, converting, monkeypatch, capsys):
    monkeypatch.setattr(room, "machine_memory", lambda: 1_000_000)
    with pytest.raises(
        ValueError, match=r"MB of memory to run pixellm-7b at 4 bits, got a computer with 1\.0 MB.*--force"
    ):
        pull(PIXELLM)
    assert hub.sent == 0
    monkeypatch.setattr(room, "CONVERSION_BYTES", 1 << 60)
    with pytest.raises(ValueError, match=r"of memory to convert pixellm-7b"):
        pull(PIXELLM, force=True)
    monkeypatch.setattr(room, "CONVERSION_BYTES", 1)
    assert pull(PIXELLM, force=True).is_dir()
    assert "does not fit" in capsys.readouterr().err


def test_other_checkpoints_are_refused_before_they_are_downloaded(hub, converting):
    files = hub.repositories["maverickrzw/PixelLM-7B"]
    for name, message in [
        ("hf_model/pytorch_model-00002-of-00002.bin", "expected hf_model/pytorch_model-00002-of-00002.bin in"),
        ("hf_model/pytorch_model.bin.index.json", "expected one of model.safetensors.index.json"),
        ("hf_model/tokenizer.model", "expected hf_model/tokenizer.model in"),
        ("hf_model/config.json", "Has it been moved"),
    ]:
        kept = files.pop(name)
        with pytest.raises(ValueError, match=message):
            pull(PIXELLM)
        if name.endswith("index.json"):
            files[name] = b'{"weight_map": {"a": "../../evil.bin"}}'
            with pytest.raises(ValueError, match="names of files beside it"):
                pull(PIXELLM)
        files[name] = kept
    assert hub.sent == 0
    del hub.repositories["maverickrzw/PixelLM-7B"]
    with pytest.raises(ValueError, match=r"no such model .*HF_ENDPOINT"):
        pull(PIXELLM)


def test_what_cannot_be_converted_is_checked_again(hub, shared):
    files, shard = hub.repositories["maverickrzw/PixelLM-7B"], f"hf_model/{FIRST_SHARD}"
    right, files[shard] = files[shard], b"no checkpoint"
    with pytest.raises(ValueError, match="cannot be read as such"):
        pull(PIXELLM)
    assert not directory_of(PIXELLM).exists()
    files[shard] = right  # a new commit
    assert pull(PIXELLM) == directory_of(PIXELLM)
    assert left(PIXELLM) == []
