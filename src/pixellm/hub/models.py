"""Model names → local directories: the embedded default, the Hugging Face Hub, or a path.

`resolve` gives the directory of a model, fetching or building it if need be; `list_models`, `where` and `remove` look
after what is kept: `models/` (the assembled default) and `parts/` (what it is made of) in our cache, and PixelLM models
in the Hub's own cache.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixellm.mini.parts import LANGUAGE_MODEL, PARTS, PRETRAINED, fetch_language_model
from pixellm.utils.cache import announce, build_once, cache_dir, locked
from pixellm.utils.files import clear_leftovers, staging_prefix

MINI = "pixellm-mini"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelInfo:
    """A model that has a name; `size` in bytes on disk, base parts included; `ready`: usable without a network."""

    name: str
    source: Literal["embedded", "cache"]
    path: Path | None
    size: int
    ready: bool


def resolve(name: str | Path) -> Path:
    """Local directory of the model called `name`, fetched or built first if it is not there.

    A name is a directory with a `config.json`, the embedded `pixellm-mini`, a name that `list_models` gives, or a
    Hugging Face Hub id `owner/name`. A name that means nothing, or whose model cannot be had, is a ValueError.
    """
    text = os.path.expanduser(str(name))
    if _is_model(text):
        return _pixellm_in(Path(text))
    if text == MINI:
        return materialise_mini()
    if built := _built().get(text):
        return built
    _refuse_as_path(text)
    if HUB_ID.fullmatch(text):
        return _from_hub(text)
    raise ValueError(
        f"expected the name of a model, got {text!r}. Known here: {', '.join([MINI, *_built()])}; "
        "or give a directory with a config.json, or a Hugging Face Hub id owner/name."
    )


def resolve_part(name: str) -> Path:
    """Return the directory of a language model, a vision encoder or a SAM; it is fetched if it is not there.

    A name is a directory, the embedded `smollm2-135m-instruct` or `pixellm-mini`, or a Hugging Face Hub id.
    """
    from huggingface_hub import snapshot_download

    if os.path.isdir(name):
        return Path(name)
    if name == LANGUAGE_MODEL.name:
        return fetch_language_model()
    return resolve(name) if name == MINI else Path(snapshot_download(name))


def materialise_mini() -> Path:
    """Directory of the embedded default, assembled once from the shipped weights and the fetched language model."""
    target = _mini_directory()

    def build(out: Path, _scratch: Path) -> None:
        from pixellm.checkpoints.assemble import assemble

        language_model = fetch_language_model()
        announce(f"assembling {MINI}")
        assemble(PRETRAINED, language_model, out)

    return build_once(target, build)


def list_models() -> list[ModelInfo]:
    """The embedded model, then what else is kept: builds of other versions, PixelLM models in the Hub's cache."""
    built = _built()
    current = _mini_directory() if PRETRAINED.is_dir() else None
    path = built.pop(current.name, None) if current else None
    size = sum(_size(directory) for directory in [path, *(part.directory for part in PARTS)] if directory)
    infos = [ModelInfo(MINI, "embedded", path, size, ready=path is not None)]
    infos += [ModelInfo(name, "cache", directory, _size(directory), ready=True) for name, directory in built.items()]
    for repo, snapshot in _hub_cached():
        infos.append(ModelInfo(repo.repo_id, "cache", snapshot, repo.size_on_disk, ready=True))
    return infos


def where(name: str | Path) -> Path:
    """Directory of a model that is here already; never fetches or builds. ValueError if it is not here."""
    text = os.path.expanduser(str(name))
    if _is_model(text):
        return Path(text)
    for info in list_models():
        if info.name == text and info.path:
            return info.path
    raise ValueError(
        f"expected a model that is here, got {text!r}, which is not (here: {', '.join(_ready()) or 'none'}). "
        f"Get it with: pixellm models pull {text}"
    )


def remove(name: str) -> int:
    """Delete the cached things of `name` and return the bytes freed.

    `pixellm-mini` means every build of it and the base parts. Only caches are touched, never a directory given by path;
    ValueError if nothing of that name is cached.
    """
    built = _built()
    if name == MINI:
        doomed = [directory for key, directory in built.items() if key.startswith(f"{MINI}-")]
        doomed += [part.directory for part in PARTS if part.directory.is_dir()]
    else:
        doomed = [built[name]] if name in built else []
    if doomed:
        return sum(_delete(directory) for directory in doomed)
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
    """Raise if `text` is, or can only mean, a place on disk: the Hub is not to be asked about a mistyped path."""
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
    """Where the default of this very version is, or will be: named by the bytes that the package ships."""
    if not PRETRAINED.is_dir():
        raise ValueError(
            f"expected the weights of {MINI} in {PRETRAINED}, got no such directory: the installation is incomplete. "
            "Install pixellm again, or give the directory of a model you trained."
        )
    digest = hashlib.sha256()
    for file in sorted(path for path in PRETRAINED.rglob("*") if path.is_file() and not path.name.startswith(".")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(PRETRAINED).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return cache_dir() / "models" / f"{MINI}-{digest.hexdigest()[:12]}"


def _built() -> dict[str, Path]:
    """Finished models in our cache, by directory name; temporary directories start with a dot."""
    models = cache_dir() / "models"
    return {path.name: path for path in sorted(models.glob("[!.]*")) if (path / "config.json").is_file()}


def _ready() -> list[str]:
    return [info.name for info in list_models() if info.ready]


def _size(directory: Path) -> int:
    """Bytes in a directory; what another process removes meanwhile counts nothing."""
    sizes = 0
    for file in directory.rglob("*"):
        with suppress(FileNotFoundError):
            sizes += file.stat().st_size if file.is_file() else 0
    return sizes


def _delete(directory: Path) -> int:
    """Remove a cache directory so that nobody ever sees half of it: rename first, then delete."""
    size = _size(directory)
    with locked(directory):
        if not directory.is_dir():  # another process was faster
            return 0
        grave = Path(tempfile.mkdtemp(prefix=staging_prefix(directory), dir=directory.parent))
        directory.rename(grave / "out")
        clear_leftovers(directory)
    return size


def _hub_cached() -> list:
    """(repository, newest snapshot) of each PixelLM model in the Hub's cache; the other models there are not ours."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    found = []
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        revisions = sorted(repo.revisions, key=lambda revision: revision.last_modified, reverse=True)
        if repo.repo_type == "model" and revisions and _is_pixellm(revisions[0].snapshot_path / "config.json"):
            found.append((repo, revisions[0].snapshot_path))
    return found


def _is_pixellm(config: Path) -> bool:
    return str(_model_type(config)).startswith("pixellm")


def _model_type(config: Path) -> str | None:
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):  # no config, or not one of a model
        return None


def _pixellm_in(directory: Path) -> Path:
    """The directory itself; ValueError if its config.json is another model's."""
    if not _is_pixellm(directory / "config.json"):
        raise ValueError(
            f"expected a PixelLM model in {directory}, got a config.json of model_type "
            f"{_model_type(directory / 'config.json')!r}. A checkpoint of the released code has to be converted first: "
            "pixellm convert RELEASED_DIR OUT --vision CLIP_DIR"
        )
    return directory


def _from_hub(repo_id: str) -> Path:
    """Download a model from the Hugging Face Hub into its usual cache; a cached one works without a network."""
    from huggingface_hub import errors, snapshot_download

    def refuse(got: str, advice: str) -> ValueError:
        return ValueError(f"expected the model {repo_id} on the Hugging Face Hub, got {got}. {advice}")

    mistyped = f"There is no directory {repo_id} here either; the embedded model is called {MINI}."
    try:
        directory = Path(snapshot_download(repo_id))
    except errors.HFValidationError as error:
        raise refuse(f"a name that cannot be one there ({error})", mistyped) from error
    except errors.GatedRepoError as error:
        raise refuse("no access: it is gated", "Ask for access on its page, then run: hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise refuse("no such model (or a private one)", f"{mistyped} For a private one: hf auth login") from error
    except errors.LocalEntryNotFoundError as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        got = "offline mode (HF_HUB_OFFLINE), and it is not in the cache" if offline else "no connection to the Hub"
        raise refuse(
            got, f"Connect and try again, or copy the model here and give its directory. {mistyped}"
        ) from error
    except (OSError, errors.HTTPError) as error:  # server trouble, a broken connection, a full disk
        raise refuse(f"{type(error).__name__}: {error}", "Try again; what was downloaded is kept.") from error
    if not _is_model(str(directory)):
        raise refuse("a repository without a config.json", "It is not a model that transformers can load.")
    return _pixellm_in(directory)
