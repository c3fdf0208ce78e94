"""What a server allows; every limit has a default that is safe for a small machine."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Limits and times of a server.

    Args:
        model_name: what clients call the model.
        max_queue: questions that wait for the model; more get 503.
        max_in_flight: requests of one key that are being read or answered; more get 429.
        max_body_bytes: of a request; larger ones get 413.
        max_pixels: of an image, before it is decoded.
        max_decoded_bytes: of all images that are held decoded at once; further requests wait.
        max_turns: user messages of a conversation.
        max_question_chars: of one user message.
        max_new_tokens: the most that a request may ask for; `default_new_tokens` where it does not say.
        max_headers, max_header_bytes: of a request; more get 431.
        header_timeout: seconds from the first byte of a request to its last header; `body_timeout` to its last byte;
            `request_timeout` for the answer, time in the queue included.
        stall_timeout: seconds in which a worker that has work says nothing before it is replaced.
        drain_timeout: seconds that answers get to finish after SIGTERM.
        image_hosts: hosts that images may be fetched from; none by default.
        fetch_timeout: seconds for one image.
        trusted_hosts: names that the server may be called by; None: any.
        page: whether there is a page for people, at /.
    """

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
