"""Messages between the server and its worker process."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pixellm.imaging.visual_prompts import Marks
from pixellm.types import Target, TextPiece
from pixellm.utils import limits


@dataclass(frozen=True)
class WorkerSettings:
    """First message to a worker: the model to load, and the limits of the engine.

    Args:
        model: directory.
        device, dtype, quantize: see `pixellm.load`; of the runtime torch alone.
        batch_size: maximum number of answers decoded together.
        joint: see `pixellm.inference.generation.Decoding`.
        cache_bytes: size of the cache for encoded images.
        max_prompt_tokens: image, system text, earlier turns and question together.
        runtime: runtime of the model; onnx: its directory holds graphs.
    """

    model: str
    device: str = "cpu"
    dtype: str = "float32"
    quantize: Literal["int8", "int4"] | None = None
    batch_size: int = 8
    joint: bool = False
    cache_bytes: int = 512 << 20
    max_prompt_tokens: int = limits.MAX_PROMPT_TOKENS
    runtime: Literal["torch", "onnx"] = "torch"


@dataclass(frozen=True)
class PastTurn:
    """Earlier question with its answer; `spans` are its targets' (start, end) in `text`, in characters."""

    question: str
    text: str
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class ImageJob:
    """Something that the worker does with an image.

    Args:
        job_id: unique number.
        tenant: owner of the image; cached prefixes are never shared between tenants.
        digest: of the image's pixels and size.
        pixels: (H, W, 3) uint8, row-major.
        size: (W, H).
    """

    job_id: int
    tenant: str
    digest: str
    pixels: bytes = field(repr=False)
    size: tuple[int, int]


@dataclass(frozen=True)
class Job(ImageJob):
    """Question for the worker.

    Args:
        question: text of the user.
        system: replaces the model's own system text.
        history: earlier turns, oldest first.
        sampling: fields of `pixellm.inference.generation.Sampling`.
        min_score: 0..1, targets with a lower confidence are left out.
    """

    question: str = field(repr=False)
    system: str | None = field(default=None, repr=False)
    history: tuple[PastTurn, ...] = field(default=(), repr=False)
    sampling: dict[str, Any] = field(default_factory=dict)
    min_score: float = 0.0


@dataclass(frozen=True)
class RefineJob(ImageJob):
    """Correction of one target for the worker.

    Args:
        target: the target, with a mask of the image's size; it may be empty.
        marks: at least one.
    """

    target: Target = field(repr=False)
    marks: Marks = field(repr=False)


@dataclass(frozen=True)
class CancelJob:
    """Request to drop a job whose client has disconnected."""

    job_id: int


@dataclass(frozen=True)
class WorkerReady:
    """The model is loaded, and jobs are accepted; `takes_prompts`: refinements, too."""

    takes_prompts: bool = False


@dataclass(frozen=True)
class WorkerFailed:
    """The model can't be loaded; the worker exits."""

    reason: str


@dataclass(frozen=True)
class AnswerFinished:
    """Last event of a complete answer, or of a refinement.

    Args:
        reason: "stop", the model ended the answer, "length", it reached its maximum number of tokens, or "refined".
        prompt_tokens: number of prompt tokens, image included.
        new_tokens: number of generated tokens, codebook tokens included.
        encode_seconds: time to encode the image; None for a cache hit.
        decode_seconds: time from the first step to the last, or of the refinement.
    """

    reason: Literal["stop", "length", "refined"]
    prompt_tokens: int
    new_tokens: int
    encode_seconds: float | None
    decode_seconds: float


@dataclass(frozen=True)
class AnswerFailed:
    """Last event of a job without an answer: an `invalid` request, a `lost` worker, or a `cancelled` job."""

    kind: Literal["invalid", "lost", "cancelled"]
    message: str = ""


AnswerEvent = TextPiece | Target | AnswerFinished | AnswerFailed


@dataclass(frozen=True)
class Progress:
    """Result of one step: events by job, number of rows decoded (0: no step), and size of the image cache."""

    events: tuple[tuple[int, AnswerEvent], ...]
    rows: int
    cached_bytes: int
