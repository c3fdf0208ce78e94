"""Systems by name: our models, and those that transformers has and `pixellm.segmenter` runs."""

import hashlib
from pathlib import Path

from pixellm.hub.models import resolve
from pixellm.utils.model_files import read_json

SAM2_TYPES = ("sam2", "sam2_video")  # checkpoints of both hold the image model
SAM3_TYPES = ("sam3", "sam3_video")
FLORENCE2_TYPE = "florence2"
OTHER_TYPES = (*SAM2_TYPES, *SAM3_TYPES, FLORENCE2_TYPE)  # values of model_type; none of them answers in words
SERVER = "@"  # MODEL@URL, a namer behind a server
OTHER_IDS = ("facebook/sam2", "facebook/sam3", "florence-community/Florence-2")  # prefixes of their Hub ids


def resolve_system(name: str | Path) -> Path:
    """Return the directory of a system, fetched or built first if needed; names and errors as in `resolve`."""
    if (Path(name) / "config.json").is_file() and kind_of(Path(name)) in OTHER_TYPES:
        return Path(name)
    if not str(name).startswith(OTHER_IDS):
        return resolve(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(name)))


def kind_of(directory: Path) -> str:
    """Return the `model_type` of the model in a directory."""
    return str(read_json(directory / "config.json").get("model_type"))


def weights_of(name: str | Path, namer: str | None = None, quantize: str | None = None) -> str:
    """Return what identifies the weights of a system: a digest of each directory, the name of a server."""
    first = [] if namer is None else [namer if SERVER in namer else identify(resolve(namer))]
    directory = resolve_system(name)
    return " ".join([*first, identify(directory), *([quantize] if quantize else [])])


def identify(directory: Path) -> str:
    """Return a digest of everything in a model directory."""
    digest = hashlib.sha256()
    for file in sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".")):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(directory).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]
