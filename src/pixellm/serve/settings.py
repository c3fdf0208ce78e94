"""Limits and timeouts of a server; the defaults suit a small machine."""

from dataclasses import dataclass

MIB = 1 << 20


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
        max_new_tokens: highest value of a request's `max_tokens`; `default_new_tokens` applies when it has none.
        max_headers, max_header_bytes: number and size of a request's headers; 431 beyond.
        header_timeout: seconds from the first byte of a request to its last header.
        body_timeout: seconds to its last byte.
        request_timeout: seconds for the answer, time in the queue included, and for the client to read each event.
        stall_timeout: seconds without a message after which a busy worker is replaced.
        drain_timeout: seconds for running answers to finish after SIGTERM.
        image_hosts: hosts that images may be fetched from; none by default.
        fetch_timeout: seconds for one image.
        trusted_hosts: accepted Host headers; None: any.
        page: serve the web page at /.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  for files that users write, see `on_ray`

    model_name: str
    max_queue: int = 256
    max_in_flight: int = 256
    max_body_bytes: int = 16 * MIB
    max_pixels: int = 25_000_000
    max_decoded_bytes: int = 512 * MIB
    max_turns: int = 16
    max_question_chars: int = 2000
    max_new_tokens: int = 512
    default_new_tokens: int = 256
    max_headers: int = 100
    max_header_bytes: int = 32 << 10
    header_timeout: float = 10
    body_timeout: float = 30
    request_timeout: float = 120
    stall_timeout: float = 300
    drain_timeout: float = 60
    image_hosts: tuple[str, ...] = ()
    fetch_timeout: float = 10
    trusted_hosts: tuple[str, ...] | None = None
    page: bool = False
