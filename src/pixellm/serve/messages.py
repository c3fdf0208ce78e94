"""What the server and its worker process say to each other."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pixellm.types import Target, TextPiece


@dataclass(frozen=True)
class Start:
    """The first message to a worker: which model to load, and how much it may do at once.

    Args:
        model: directory.
        device, dtype, quantize: see `Predictor.load`.
        batch_size: answers that are decoded together.
        joint: see `pixellm.inference.generation.Decoding`.
        cache_bytes: for encoded images.
        max_prompt_tokens: image, system text, earlier turns and question together.
    """

    model: str
    device: str = "cpu"
    dtype: str = "float32"
    quantize: Literal["int8", "int4"] | None = None
    batch_size: int = 8
    joint: bool = False
    cache_bytes: int = 512 << 20
    max_prompt_tokens: int = 1024


@dataclass(frozen=True)
class Turn:
    """An earlier question and its answer; `spans` are those of its targets, in characters of `text`."""

    question: str
    text: str
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Job:
    """One question.

    Args:
        job_id: unique.
        tenant: whose image it is; nothing of it is ever used for another's.
        digest: of the image's content.
        pixels: (H, W, 3) uint8, row by row.
        size: W, H.
        question: of the user.
        system: in place of the model's own system text.
        history: earlier turns, the oldest first.
        sampling: fields of `pixellm.inference.generation.Sampling`.
    """

    job_id: int
    tenant: str
    digest: str
    pixels: bytes = field(repr=False)
    size: tuple[int, int]
    question: str = field(repr=False)
    system: str | None = field(default=None, repr=False)
    history: tuple[Turn, ...] = field(default=(), repr=False)
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cancel:
    """Whoever asked is gone."""

    job_id: int


@dataclass(frozen=True)
class Ready:
    """The model is loaded; from now on jobs are taken."""


@dataclass(frozen=True)
class Finished:
    """An answer is complete.

    Args:
        reason: the model ended it, or its budget of tokens did.
        prompt_tokens: image included.
        new_tokens: codebook tokens included.
        encode_seconds: None: the image was known.
        decode_seconds: from the first step to the last.
    """

    reason: Literal["stop", "length"]
    prompt_tokens: int
    new_tokens: int
    encode_seconds: float | None
    decode_seconds: float


@dataclass(frozen=True)
class Failed:
    """No answer: `invalid` is the request's fault, `lost` nobody's but ours, `cancelled` what was asked for."""

    kind: Literal["invalid", "lost", "cancelled"]
    message: str = ""


Item = TextPiece | Target | Finished | Failed


@dataclass(frozen=True)
class Progress:
    """What one step gave: items of jobs, how many rows took part (0: no step), and bytes of cached images."""

    items: tuple[tuple[int, Item], ...]
    rows: int
    cached_bytes: int
