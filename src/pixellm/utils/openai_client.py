"""Language models behind an OpenAI-compatible server: a hosted one, vLLM, SGLang and others."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

RETRIES = 5  # of one request, with growing waits or as the server asks (429, 5xx, broken connections)
KEY = "OPENAI_API_KEY"
NO_KEY = "none"  # for servers that want none: the client wants one


def connect(url: str | None) -> "OpenAI":
    """A client of the server at `url` (https://host/v1); None: OpenAI's own, or OPENAI_BASE_URL.

    The key is read from OPENAI_API_KEY. Servers of one's own want none, but the client wants one.
    """
    from openai import OpenAI

    return OpenAI(base_url=url, api_key=_key(None), max_retries=RETRIES)


def connect_async(url: str | None, key_file: Path | None, timeout: float) -> "AsyncOpenAI":
    """As `connect`, for many requests at the same time; it tries nothing again by itself.

    Args:
        url: as there.
        key_file: a file that holds nothing but the key, in place of OPENAI_API_KEY.
        timeout: seconds until a request is given up.

    Raises:
        ValueError: the file can't be read, or is empty.
    """
    from openai import AsyncOpenAI, DefaultAioHttpClient

    client = DefaultAioHttpClient(timeout=timeout)
    return AsyncOpenAI(base_url=url, api_key=_key(key_file), max_retries=0, timeout=timeout, http_client=client)


def _key(file: Path | None) -> str:
    if file is None:
        return os.environ.get(KEY, "").strip() or NO_KEY
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a file that holds a key, got {file} ({type(error).__name__}).") from None
    if not key or len(key.split()) > 1:
        raise ValueError(f"expected a file that holds one key and nothing else, got another content in {file}.")
    return key
