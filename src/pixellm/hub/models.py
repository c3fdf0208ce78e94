"""Model names → local directories: the embedded default, released checkpoints, the Hugging Face Hub, or a path.

`resolve` returns the directory of a model and fetches or builds it if needed; `list_models`, `where` and `remove`
manage the caches: `models/` (the assembled default, converted released checkpoints) and `parts/` (base models of the
default) in ours, PixelLM models in the Hub's.
"""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixellm.hub.catalogue import MINI_FACTS, RELEASED, ModelFacts, find_released
from pixellm.hub.download import explained
from pixellm.hub.released import directory_of, downloads_of, pull, remove_released
from pixellm.mini.parts import LANGUAGE_MODEL, PARTS, PRETRAINED, fetch_gguf, fetch_language_model
from pixellm.runtime.manifest import MANIFEST
from pixellm.utils.cache import announce, build_once, cache_dir, locked
from pixellm.utils.files import clear_leftovers, content_digest, directory_size, staging_prefix

MINI = "pixellm-mini"
GRAPHS = ".graphs"  # of the directory of the default's graphs
DIGEST = f".{MINI}.digest"  # of the shipped weights, beside what is made of them
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelInfo:
    """Named model.

    Args:
        name: its name.
        source: what it is made from.
        path: its directory; None if it is not here.
        size: bytes on disk, base models and unfinished downloads included.
        ready: usable without a network.
        facts: what it takes, where that is known.
    """

    name: str
    source: Literal["embedded", "released", "cache"]
    path: Path | None
    size: int
    ready: bool
    facts: ModelFacts | None = None


def resolve(name: str | Path) -> Path:
    """Return the directory of a model, fetched or built first if needed.

    A name is a directory with a `config.json`, the embedded `pixellm-mini`, a name that `list_models` gives (released
    checkpoints among them, also by the id of their repository), or a Hugging Face Hub id `owner/name`. An unknown name,
    or a model that cannot be fetched, is a ValueError.
    """
    text = os.path.expanduser(str(name))
    if _is_model(text):
        return _pixellm_in(Path(text))
    if text == MINI:
        return materialise_mini()
    if text in RELEASED:
        return pull(RELEASED[text])
    if built := _built().get(text):
        return built
    _refuse_as_path(text)
    if released := find_released(text):
        return pull(released)
    if HUB_ID.fullmatch(text):
        return _from_hub(text)
    raise ValueError(
        f"expected the name of a model, got {text!r}. Known: {', '.join(dict.fromkeys([MINI, *RELEASED, *_built()]))}; "
        "or give a directory with a config.json, or a Hugging Face Hub id owner/name."
    )


def resolve_part(name: str) -> Path:
    """Return the directory of a language model, a vision encoder or a SAM, fetched first if needed.

    A name is a directory, the embedded `smollm2-135m-instruct` or `pixellm-mini`, or a Hugging Face Hub id.
    """
    from huggingface_hub import snapshot_download

    if os.path.isdir(name):
        return Path(name)
    if name == LANGUAGE_MODEL.name:
        return fetch_language_model()
    return resolve(name) if name == MINI else Path(snapshot_download(name))


def materialise_mini() -> Path:
    """Return the directory of the embedded default, assembled once from shipped weights and fetched base models."""
    target = _mini_directory()

    def build(out: Path, _scratch: Path) -> None:
        from pixellm.checkpoints.assemble import assemble

        language_model = fetch_language_model()
        announce(f"assembling {MINI}")
        assemble(PRETRAINED, language_model, out)

    return build_once(target, build)


def has_graphs(name: str | Path) -> bool:
    """Return whether a model can run without torch: pixellm-mini, or a directory that was exported."""
    return str(name) == MINI or (Path(name).expanduser() / MANIFEST).is_file()


def resolve_graphs(name: str | Path) -> Path:
    """Return the directory of an exported model; of pixellm-mini, made first if needed.

    Raises:
        ValueError: the model is not exported, or can't be fetched.
    """
    if str(name) != MINI:
        if has_graphs(name):
            return Path(name).expanduser()
        raise ValueError(
            f"expected {MINI} or a directory of exported graphs, got {str(name)!r}. Export the model first: "
            f"pixellm models export {name} OUT"
        )

    def build(out: Path, _scratch: Path) -> None:
        from pixellm.runtime.mini import prepare_mini

        prepare_mini(fetch_gguf(), out)

    return build_once(_mini_directory().with_suffix(GRAPHS), build)


def list_models() -> list[ModelInfo]:
    """List the embedded model, the released ones, other builds in our cache, and PixelLM models in the Hub's."""
    built = _built()
    current = _mini_directory() if PRETRAINED.is_dir() else None
    path = built.pop(current.name, None) if current else None
    graphs = current.with_suffix(GRAPHS) if current else None
    parts = [path, graphs, *(asset.directory for asset in PARTS)]
    size = sum(directory_size(directory) for directory in parts if directory)
    if path is None and graphs and graphs.is_dir():  # made without torch
        path = graphs
    infos = [ModelInfo(MINI, "embedded", path, size, ready=path is not None, facts=MINI_FACTS)]
    for name, model in RELEASED.items():
        path = built.pop(name, None)
        size = directory_size(path or downloads_of(model))
        infos.append(ModelInfo(name, "released", path, size, ready=path is not None, facts=model.facts))
    infos += [
        ModelInfo(name, "cache", directory, directory_size(directory), ready=True) for name, directory in built.items()
    ]
    for repo, snapshot in _hub_cached():
        infos.append(ModelInfo(repo.repo_id, "cache", snapshot, repo.size_on_disk, ready=True))
    return infos


def where(name: str | Path) -> Path:
    """Return the directory of a model on this computer without fetching or building; a ValueError if there is none."""
    text = os.path.expanduser(str(name))
    if _is_model(text):
        return Path(text)
    released = find_released(text)
    known = released.name if released else text
    for info in list_models():
        if info.name == known and info.path:
            return info.path
    raise ValueError(
        f"expected a model on this computer, got {text!r}, which is not ({', '.join(_ready()) or 'none'} is). "
        f"Get it with: pixellm models pull {text}"
    )


def remove(name: str) -> int:
    """Delete the cached files of a model and return the bytes freed.

    `pixellm-mini` is every build of it and its base models; a released model includes its unfinished download. Only
    caches are touched, never a directory given by path. A name that is not cached is a ValueError.
    """
    built = _built()
    if (released := find_released(name)) and (directory_of(released).is_dir() or downloads_of(released).is_dir()):
        return remove_released(released)
    if name == MINI:
        directories = sorted((cache_dir() / "models").glob(f"{MINI}-*"))
        directories += [asset.directory for asset in PARTS if asset.directory.is_dir()]
    else:
        directories = [built[name]] if name in built else []
    if directories:
        return sum(_delete(directory) for directory in directories)
    for repo, _ in _hub_cached():
        if repo.repo_id == name:
            shutil.rmtree(repo.repo_path)
            return repo.size_on_disk
    raise ValueError(
        f"expected the name of a cached model, got {name!r}, which is neither in {cache_dir()} nor in the Hub's cache. "
        f"There is: {', '.join(_ready()) or 'nothing'}."
    )


def _is_model(directory: str) -> bool:
    return bool(directory) and os.path.isfile(os.path.join(directory, "config.json"))


def _refuse_as_path(text: str) -> None:
    """Raise a ValueError if `text` is or can only be a path, so that the Hub is not asked about a mistyped one."""
    if text and os.path.isdir(text):
        raise ValueError(
            f"expected a model directory, got {text} without a config.json. A model directory holds config.json, "
            "*.safetensors and the tokenizer's files, as save_pretrained writes them; is it one level up or down?"
        )
    if text and os.path.exists(text):
        raise ValueError(
            f"expected a model directory, got the file {text}. Give the directory that holds its config.json."
        )
    # One slash between two plain words is a Hub id as well; anything else with a separator can only be a path.
    separated = os.sep in text or "/" in text or "\\" in text
    if text.startswith((".", "~")) or (separated and not HUB_ID.fullmatch(text)):
        raise ValueError(
            f"expected a model directory, got {text}, which does not exist. "
            f"Check the path (relative ones start from {os.getcwd()})."
        )


def _mini_directory() -> Path:
    """Return the directory of this version's default, named by a hash of the shipped weights; it need not exist."""
    if not PRETRAINED.is_dir():
        raise ValueError(
            f"expected the weights of {MINI} in {PRETRAINED}, got no such directory: the installation is incomplete. "
            "Install pixellm again, or give the directory of a model you trained."
        )
    models = cache_dir() / "models"
    return models / f"{MINI}-{content_digest(PRETRAINED, models / DIGEST)[:12]}"


def _built() -> dict[str, Path]:
    """Return the finished models in our cache by directory name; temporary directories start with a dot."""
    models = cache_dir() / "models"
    return {path.name: path for path in sorted(models.glob("[!.]*")) if (path / "config.json").is_file()}


def _ready() -> list[str]:
    return [info.name for info in list_models() if info.ready]


def _delete(directory: Path) -> int:
    """Delete a cache directory atomically (rename, then delete), and return its bytes."""
    size = directory_size(directory)
    with locked(directory):
        if not directory.is_dir():  # another process was faster
            return 0
        trash = Path(tempfile.mkdtemp(prefix=staging_prefix(directory), dir=directory.parent))
        directory.rename(trash / "out")
        clear_leftovers(directory)
    return size


def _hub_cached() -> list:
    """Return (repository, newest snapshot) of each PixelLM model in the Hub's cache."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    models = []
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        revisions = sorted(repo.revisions, key=lambda revision: revision.last_modified, reverse=True)
        if repo.repo_type == "model" and revisions and _is_pixellm(revisions[0].snapshot_path / "config.json"):
            models.append((repo, revisions[0].snapshot_path))
    return models


def _is_pixellm(config: Path) -> bool:
    return str(_model_type(config)).startswith("pixellm")


def _model_type(config: Path) -> str | None:
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):  # no config, or not one of a model
        return None


def _pixellm_in(directory: Path) -> Path:
    """Return the directory; a ValueError if its config.json is of another kind of model."""
    if not _is_pixellm(directory / "config.json"):
        raise ValueError(
            f"expected a PixelLM model in {directory}, got a config.json of model_type "
            f"{_model_type(directory / 'config.json')!r}. A checkpoint of the released code has to be converted first: "
            "pixellm convert RELEASED_DIR OUT --vision CLIP_DIR"
        )
    return directory


def _from_hub(repo_id: str) -> Path:
    """Download a model from the Hugging Face Hub into its cache; a cached one needs no network."""
    from huggingface_hub import snapshot_download

    mistyped = f"There is no directory {repo_id} here either; the embedded model is called {MINI}."
    with explained(repo_id, mistyped):
        directory = Path(snapshot_download(repo_id))
    if not _is_model(str(directory)):
        raise ValueError(
            f"expected the model {repo_id} on the Hugging Face Hub, got a repository without a config.json. "
            "It is not a model that transformers can load."
        )
    return _pixellm_in(directory)
