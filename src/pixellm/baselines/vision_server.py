"""A vision-language model behind any OpenAI-compatible server, that names the objects and points at them."""

import base64
import io
from typing import Any

from PIL import Image

from pixellm.baselines.two_stage import NamedObject
from pixellm.utils.budget import Budget
from pixellm.utils.chat_protocol import Messages, json_object
from pixellm.utils.job_runner import run_blocking
from pixellm.utils.openai_client import ChatClient
from pixellm.utils.server_settings import ServerSettings

SIDE = 1024  # pixels: the longest side of the image that is sent
TIMEOUT = 600.0  # seconds of a request: models that think aloud take their time
SCALE = 1000  # points are in thousandths of width and height
REQUEST = (
    "Question about the image: {question}\n"
    "Which things in the image does it ask for? Reply with JSON alone: "
    '{{"things": [{{"name": "a short phrase that tells this thing from others", "point": [x, y]}}]}}. '
    "Give one entry for each thing, with a point in the middle of it; x from the left and y from the top, both from 0 "
    "to 1000 over the whole image. Reply with an empty list if nothing fits."
)


class VisionServer:
    """A `Namer` that also points.

    Args:
        model: its name at the server.
        url: see `ServerSettings`.
    """

    def __init__(self, model: str, url: str | None = None) -> None:
        self._settings = ServerSettings(model=model, url=url, timeout=TIMEOUT, max_output=None, temperature=0.0)
        self._image = ""

    def set_image(self, image: Image.Image) -> None:
        """Keep the image, downscaled, for the questions that follow."""
        small = image.copy()
        small.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        small.convert("RGB").save(buffer, "JPEG", quality=90)
        self._image = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def names(self, question: str) -> list[NamedObject]:
        """Return the objects that the question asks for, with a point on each.

        Raises:
            ValueError: the server can't be reached, refuses, or its reply is not in the requested format.
        """
        text = {"type": "text", "text": REQUEST.format(question=question)}
        content: Any = [{"type": "image_url", "image_url": {"url": self._image}}, text]
        return parse_objects(run_blocking(self._ask([{"role": "user", "content": content}])))

    async def _ask(self, messages: Messages) -> str:
        async with ChatClient(self._settings, Budget()) as client:
            return (await client.ask(messages)).text


def parse_objects(reply: str) -> list[NamedObject]:
    """Parse names and points from a reply, which may have words around its JSON.

    Raises:
        ValueError: there is no such JSON in it.
    """
    try:
        items = json_object(reply)["things"]
        return [NamedObject(str(item["name"]).strip(), _point(item["point"])) for item in items]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f'expected JSON with "things", each with a name and a point of 0 to {SCALE}, got {reply[:200]!r}. '
            "Try another model: this one does not follow the request."
        ) from None


def _point(values: Any) -> tuple[float, float]:
    x, y = (float(value) / SCALE for value in values)
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError("a point outside of the image")
    return x, y
