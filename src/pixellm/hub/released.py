"""Released checkpoints by name: downloaded, converted once, checked, cached.

models/.NAME.download/REPOSITORY@COMMIT/…   what is downloaded; kept by a kill, deleted at the end
models/.NAME.tmp-…/                         what is converted; deleted by the next call after a kill
models/NAME/                                the model, renamed into place when it is complete and checked
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pixellm.hub.catalogue import HubSource, ReleasedModel
from pixellm.hub.download import INCOMPLETE, RemoteFile, download, downloaded, explained, incomplete, locate
from pixellm.hub.room import expect_disk, expect_memory, gigabytes
from pixellm.utils.cache import announce, build_once, cache_dir, locked, progress
from pixellm.utils.files import directory_size, staging_prefix, write_text

WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
COMPLETE = ".complete"  # in a download directory: all files are there and checked
PROVENANCE = "source.json"  # in a model directory


@dataclass(frozen=True)
class SourcePlan:
    """Files of one source, before they are downloaded.

    Args:
        source: where they are from.
        root: directory that mirrors the repository.
        commit: of the repository.
        files: to download; empty if all are here.
    """

    source: HubSource
    root: Path
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def directory(self) -> Path:
        """Directory that the converter reads."""
        return self.root / self.source.subfolder

    @property
    def size(self) -> int:
        """Bytes of all files."""
        if self.files:
            return sum(file.size or 0 for file in self.files)
        return sum(path.stat().st_size for path in self.directory.iterdir() if path.is_file())

    @property
    def remaining(self) -> int:
        """Bytes that are not here."""
        return sum(max(0, (file.size or 0) - downloaded(self.root / file.path)) for file in self.files)


def directory_of(model: ReleasedModel) -> Path:
    """Return the directory of a converted model, which need not exist."""
    return cache_dir() / "models" / model.name


def downloads_of(model: ReleasedModel) -> Path:
    """Return the directory of a model's downloads, which exists until it is converted."""
    return cache_dir() / "models" / f".{model.name}.download"


def pull(model: ReleasedModel, force: bool = False) -> Path:
    """Return the directory of a released model, downloaded and converted first if it is not here.

    Args:
        model: the model.
        force: download it even if it can't be used on this computer, for lack of memory.

    Raises:
        ValueError: it can't be downloaded, is not the checkpoint that it should be, or disk or memory don't suffice.
    """
    target, downloads = directory_of(model), downloads_of(model)
    build_once(target, lambda out, _scratch: _build(model, out, force))
    if downloads.is_dir() and os.access(downloads, os.W_OK):
        with locked(target):
            if target.is_dir():  # nobody removed it meanwhile and begins anew
                shutil.rmtree(downloads, ignore_errors=True)
    return target


def _build(model: ReleasedModel, out: Path, force: bool) -> None:
    downloads = downloads_of(model)
    plans = [plan_source(source, downloads) for source in (model.released, model.vision)]
    size = sum(plan.size for plan in plans)
    expect_memory(model, size, force)
    # The converted model has the weights of both, and little else.
    expect_disk(model, out.parent, sum(plan.remaining for plan in plans), size)
    for plan in plans:
        _fetch(plan)
    try:
        _convert(model, plans[0], plans[1], out)
    except ValueError:
        for plan in plans:
            _reopen(plan, downloads)
        raise


def plan_source(source: HubSource, downloads: Path) -> SourcePlan:
    """Find a source's files: in a finished download, in the Hub's cache, or on the Hub.

    Raises:
        ValueError: the Hub can't be asked, or has not all of the files.
    """
    prefix = f"{source.repo_id.replace('/', '--')}@"
    for root in downloads.glob(f"{prefix}*"):
        if (root / COMPLETE).is_file():
            return SourcePlan(source, root, root.name.removeprefix(prefix), ())
    if snapshot := _cached_snapshot(source):
        return SourcePlan(source, snapshot, snapshot.name, ())
    with explained(source.repo_id, "Is HF_ENDPOINT set to another server?"):
        first = _needed(source, source.needed[0], "main")
        root = downloads / f"{prefix}{first.commit}"
        for stale in downloads.glob(f"{prefix}*"):
            if stale != root:  # of a commit that `main` has left
                shutil.rmtree(stale)
        return SourcePlan(source, root, first.commit, (first, *_other_files(source, first.commit, root)))


def _other_files(source: HubSource, commit: str, root: Path) -> Iterator[RemoteFile]:
    for name in source.needed[1:]:
        yield _needed(source, name, commit)
    for name in source.optional:
        if file := locate(source.repo_id, source.path(name), commit):
            yield file
    candidates = (locate(source.repo_id, source.path(name), commit) for name in WEIGHTS)
    weights = next((file for file in candidates if file), None)
    if weights is None:
        raise ValueError(f"expected one of {', '.join(WEIGHTS)} in {source.repo_id}, found none.")
    yield weights
    if weights.path.endswith(".index.json"):
        download(weights, root / weights.path)
        for name in sorted(_shards(root / weights.path)):
            yield _needed(source, name, commit)


def _needed(source: HubSource, name: str, revision: str) -> RemoteFile:
    file = locate(source.repo_id, source.path(name), revision)
    if file is None:
        raise ValueError(
            f"expected {source.path(name)} in {source.repo_id} on the Hugging Face Hub, found none. Has it been moved? "
            "Another copy of the checkpoint can be converted by hand: pixellm convert"
        )
    return file


def _shards(index: Path) -> set[str]:
    """Return the names of the weight files in an index; a ValueError if one lies elsewhere."""
    from pixellm.utils.weights import shards_of

    names = shards_of(index)
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index.name}: expected names of files beside it, got {outside[0]!r}.")
    return names


def _cached_snapshot(source: HubSource) -> Path | None:
    """Return the Hub's cached snapshot of a source (`hf download`), if every file is in it."""
    from huggingface_hub import errors, snapshot_download

    try:
        root = Path(snapshot_download(source.repo_id, local_files_only=True))
    except (errors.LocalEntryNotFoundError, OSError, ValueError):
        return None
    directory = root / source.subfolder
    weights = next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)
    if weights is None:
        return None
    names = _shards(weights) if weights.name.endswith(".index.json") else set()
    return root if all((directory / name).is_file() for name in (*source.needed, *names)) else None


def _fetch(plan: SourcePlan) -> None:
    if not plan.files:
        return
    announce(f"downloading {plan.source.repo_id} ({gigabytes(plan.remaining)} of {gigabytes(plan.size)} to go)")
    with explained(plan.source.repo_id, ""):
        for file in plan.files:
            download(file, plan.root / file.path)
    write_text(plan.root / COMPLETE, "")


def _convert(model: ReleasedModel, released: SourcePlan, vision: SourcePlan, out: Path) -> None:
    """Convert into the empty directory `out`, and check every key of what was written."""
    from safetensors import SafetensorError

    from pixellm.baselines.lisa.convert import LISA
    from pixellm.checkpoints import convert as converter

    try:
        with progress(f"converting {model.name}"):
            report = converter.convert(released.directory, out, vision.directory, [LISA])
        with progress(f"checking {model.name}"):
            checked = converter.check(out, [LISA])
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{model.name}: converting it failed ({error}). Try again; the download is kept.") from error
    if not checked.complete:
        raise ValueError(f"{model.name}: {checked.faults(model.name)}")
    if report.unknown:
        announce(f"{model.name}: left out {len(report.unknown)} unknown keys: {', '.join(report.unknown)}")
    keys = {"used": len(report.used), "dropped": report.dropped, "unknown": report.unknown}
    provenance = {
        **{"name": model.name, "repository": model.released.repo_id, "commit": released.commit},
        **{"vision_encoder": model.vision.repo_id, "vision_encoder_commit": vision.commit},
        **{"licence": model.facts.licence, "keys": keys | {"from_constants": report.constants}},
    }
    write_text(out / PROVENANCE, json.dumps(provenance, indent=2) + "\n")


def _reopen(plan: SourcePlan, downloads: Path) -> None:
    """Let the next call check the files again, and the Hub for a newer commit: what they hold can't be converted."""
    if not plan.root.is_relative_to(downloads):  # the Hub's cache is not ours
        return
    (plan.root / COMPLETE).unlink(missing_ok=True)
    for file in [path for path in plan.root.rglob("*") if path.is_file()]:
        if not file.name.endswith(INCOMPLETE):
            file.replace(incomplete(file))


def remove_released(model: ReleasedModel) -> int:
    """Delete a converted model and its unfinished download, and return the bytes freed."""
    target = directory_of(model)
    freed = 0
    with locked(target):
        for directory in filter(Path.is_dir, (target, downloads_of(model))):
            freed += directory_size(directory)
            # Renamed first, so that nobody finds half a model.
            trash = Path(tempfile.mkdtemp(prefix=staging_prefix(target), dir=target.parent))
            directory.rename(trash / "out")
            shutil.rmtree(trash)
    return freed
