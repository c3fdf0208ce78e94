"""Language models behind an OpenAI-compatible server: a hosted one, vLLM, SGLang and others."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import OpenAI

RETRIES = 5  # of one request, with growing waits or as the server asks (429, 5xx, broken connections)


def connect(url: str | None) -> "OpenAI":
    """A client of the server at `url` (https://host/v1); None: OpenAI's own, or OPENAI_BASE_URL.

    The key is read from OPENAI_API_KEY. Servers of one's own want none, but the client wants one.
    """
    from openai import OpenAI

    return OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY") or "none", max_retries=RETRIES)
