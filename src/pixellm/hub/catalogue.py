"""Catalogue: the models that can be had by name, where their checkpoints are published, and what they take.

The repositories are those that the READMEs of MaverickRen/PixelLM and dvlab-research/LISA name.
"""

from dataclasses import dataclass

TOKENIZER = "tokenizer.model"
# Precision → how it is asked for on the command line; the most precise first.
PRECISIONS = {"bfloat16": "--dtype bfloat16", "int8": "--quantize int8", "int4": "--quantize int4"}


@dataclass(frozen=True)
class ModelFacts:
    """Size, memory and licence of a model, known before any of it is here.

    Args:
        parameters: number of parameters, vision encoder included.
        download: bytes to download.
        memory: bytes of answering a question on a CPU by precision (`PRECISIONS`), the totals of `pixellm models plan`.
        licence: as its owners state it.
    """

    parameters: int
    download: int
    memory: dict[str, int]
    licence: str

    def precision_within(self, available: int) -> str | None:
        """Return the best precision whose memory is `available` (bytes), or None."""
        return next((name for name in PRECISIONS if self.memory[name] <= available), None)


@dataclass(frozen=True)
class HubSource:
    """Checkpoint in a repository of the Hugging Face Hub.

    Args:
        repo_id: the repository.
        subfolder: its directory in there; empty: the root.
        needed: files without which it can't be read, besides the weights.
        optional: files that are read where they are.
    """

    repo_id: str
    subfolder: str = ""
    needed: tuple[str, ...] = ("config.json",)
    optional: tuple[str, ...] = ()

    def path(self, name: str) -> str:
        """Return a file's path inside the repository."""
        return f"{self.subfolder}/{name}" if self.subfolder else name


@dataclass(frozen=True)
class ReleasedModel:
    """Released checkpoint that is converted after the download."""

    name: str
    released: HubSource
    vision: HubSource
    facts: ModelFacts


def _checkpoint(repo_id: str, subfolder: str = "") -> HubSource:
    optional = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    return HubSource(repo_id, subfolder, ("config.json", TOKENIZER), optional)


def _memory(bfloat16: float, int8: float, int4: float) -> dict[str, int]:
    """Convert gigabytes to bytes."""
    return dict(zip(PRECISIONS, (int(1e9 * size) for size in (bfloat16, int8, int4)), strict=True))


CLIP_336 = HubSource("openai/clip-vit-large-patch14-336")  # PixelLM's vision encoder
CLIP_224 = HubSource("openai/clip-vit-large-patch14")  # LISA's
NOT_STATED = "none stated"  # LISA's repositories on the Hub have no model card

RELEASED = {
    model.name: model
    for model in (
        ReleasedModel(
            "pixellm-7b",
            _checkpoint("maverickrzw/PixelLM-7B", "hf_model"),
            CLIP_336,
            ModelFacts(7_153_407_980, 15_470_000_000, _memory(15.73, 9.25, 6.21), "Apache-2.0"),
        ),
        ReleasedModel(
            "pixellm-13b",
            _checkpoint("maverickrzw/PixelLM-13B", "hf_model"),
            CLIP_336,
            ModelFacts(13_482_776_556, 28_130_000_000, _memory(28.59, 15.90, 9.95), "Apache-2.0"),
        ),
        ReleasedModel(
            "lisa-7b",
            _checkpoint("xinlai/LISA-7B-v1"),
            CLIP_224,
            ModelFacts(7_704_741_349, 17_830_000_000, _memory(19.44, 12.96, 9.92), NOT_STATED),
        ),
        ReleasedModel(
            "lisa-13b",
            _checkpoint("xinlai/LISA-13B-llama2-v1"),
            CLIP_224,
            ModelFacts(13_992_937_957, 30_430_000_000, _memory(32.21, 19.53, 13.58), NOT_STATED),
        ),
    )
}
MINI_FACTS = ModelFacts(148_471_072, 93_000_000, _memory(1.19, 1.08, 1.04), "Apache-2.0")


def find_released(name: str) -> ReleasedModel | None:
    """Return the released model of a name, or of its repository's id (in any case); None if there is none."""
    by_id = {model.released.repo_id.lower(): model for model in RELEASED.values()}
    return RELEASED.get(name) or by_id.get(name.lower())
