"""Files inside npm packages. Offline: the registry is a directory."""

import base64
import hashlib
import io
import tarfile
from dataclasses import replace

import pytest

from pixellm.utils import npm
from pixellm.utils.npm import NpmPackage, fetch_npm

CONTENT = b"export const answer = 42;\n"


@pytest.fixture
def package(tmp_path, monkeypatch) -> NpmPackage:
    """A package in a registry on disk, and a cache of its own."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ("package/dist/tiny.mjs", "package/readme.md"):
            entry = tarfile.TarInfo(name)
            entry.size = len(CONTENT)
            archive.addfile(entry, io.BytesIO(CONTENT))
    registry = tmp_path / "registry"
    place = registry / "@scope" / "tiny" / "-"
    place.mkdir(parents=True)
    (place / "tiny-1.0.0.tgz").write_bytes(stream.getvalue())
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    monkeypatch.setenv("npm_config_registry", f"{registry.as_uri()}/")
    monkeypatch.setenv("PIXELLM_CACHE", str(tmp_path / "cache"))
    integrity = base64.b64encode(hashlib.sha512(stream.getvalue()).digest()).decode()
    return NpmPackage("@scope/tiny", "1.0.0", integrity, ("dist/tiny.mjs",), 1)


def test_fetches_once(package, monkeypatch, tmp_path):
    directory = fetch_npm(package)
    assert directory == tmp_path / "cache" / "npm" / "scope-tiny-1.0.0"
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {"tiny.mjs": CONTENT}
    monkeypatch.setattr(npm, "_download", None)  # any further download would fail
    assert fetch_npm(package) == directory


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"integrity": "x"}, r"expected SHA-512 x, got .* was not kept"),
        ({"members": ("dist/other.mjs",)}, r"expected dist/other.mjs in tiny-1.0.0.tgz, got an archive without it"),
        ({"version": "9.9.9"}, r"expected tiny-9.9.9.tgz from the npm registry, got .* npm_config_registry"),
    ],
)
def test_refuses(package, changes, message):
    wrong = replace(package, **changes)
    with pytest.raises(ValueError, match=message):
        fetch_npm(wrong)
    assert not wrong.directory.exists()


def test_no_address(package, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "nowhere")
    with pytest.raises(ValueError, match="from the npm registry"):
        fetch_npm(package)
