"""Limits and timeouts of a server; the defaults suit a small machine."""

from dataclasses import dataclass
from pathlib import Path

from pixellm.utils import limits
from pixellm.utils.checks import check_min_score


@dataclass(frozen=True)
class ServeSettings:
    """Limits and timeouts of a server.

    Args:
        model_name: the model's name in requests and in /v1/models.
        max_queue: questions waiting for the model; 503 beyond.
        max_in_flight: requests of one API key being read or answered; 429 beyond.
        max_body_bytes: size of a request; 413 beyond.
        max_pixels: size of an image, checked before it is decoded; 413 beyond.
        max_decoded_bytes: memory of all decoded images; further requests wait.
        max_turns: user messages of a conversation.
        max_question_chars: characters of one user message.
        max_answer_chars, max_chat_chars: characters of one earlier answer, and of all texts of a conversation.
        max_new_tokens: highest value of a request's `max_tokens`; `default_new_tokens` applies when it has none.
        max_headers, max_header_bytes: number and size of a request's headers; 431 beyond.
        header_timeout: seconds from the first byte of a request to its last header.
        body_timeout: seconds to its last byte.
        request_timeout: seconds for the answer, time in the queue included, and for a client to read it.
        write_timeout: seconds for a client to read what has been written; its connection is aborted.
        stall_timeout: seconds without a message after which a busy worker is replaced.
        drain_timeout: seconds for running answers to finish after SIGTERM.
        image_hosts: hosts that images may be fetched from; none by default.
        fetch_timeout: seconds for one image.
        trusted_hosts: accepted Host headers; None: any.
        page: serve the web page at /.
        min_score: 0..1, targets with a lower confidence are left out where a request does not say.
        corrections: folder of the corrections that clients send; None: none are accepted.
        max_corrections_bytes: size of that folder; 507 beyond.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  for files that users write, see `on_ray`

    model_name: str
    max_queue: int = limits.MAX_QUEUE
    max_in_flight: int = limits.MAX_IN_FLIGHT
    max_body_bytes: int = limits.MAX_BODY_BYTES
    max_pixels: int = limits.MAX_UPLOAD_PIXELS
    max_decoded_bytes: int = limits.MAX_DECODED_BYTES
    max_turns: int = limits.MAX_TURNS
    max_question_chars: int = limits.MAX_QUESTION_CHARS
    max_answer_chars: int = limits.MAX_ANSWER_CHARS
    max_chat_chars: int = limits.MAX_CHAT_CHARS
    max_new_tokens: int = limits.MAX_NEW_TOKENS
    default_new_tokens: int = 256
    max_headers: int = limits.MAX_HEADERS
    max_header_bytes: int = limits.MAX_HEADER_BYTES
    header_timeout: float = limits.HEADER_SECONDS
    body_timeout: float = limits.BODY_SECONDS
    request_timeout: float = limits.REQUEST_SECONDS
    write_timeout: float = limits.WRITE_SECONDS
    stall_timeout: float = 300
    drain_timeout: float = 60
    image_hosts: tuple[str, ...] = ()
    fetch_timeout: float = limits.FETCH_SECONDS
    trusted_hosts: tuple[str, ...] | None = None
    page: bool = False
    min_score: float = 0.0
    corrections: Path | None = None
    max_corrections_bytes: int = limits.MAX_CORRECTIONS_BYTES

    def __post_init__(self) -> None:
        check_min_score(self.min_score)
