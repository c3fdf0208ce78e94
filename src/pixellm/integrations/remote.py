"""Models that tools ask: one that is loaded here, or a pixellm server as a `Segmenter`, over HTTP.

image → PNG in a data URI → POST /v1/segment, /v1/refine → JSON → Answer, Target
image, Correction → POST /v1/corrections
"""

import base64
import io
import json
import os
import re
from dataclasses import replace
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from PIL import Image

from pixellm.data.corrections import Correction
from pixellm.imaging import masks
from pixellm.imaging.images import ImageSource, load_image
from pixellm.imaging.visual_prompts import Marks
from pixellm.types import Answer, Segmenter, Target
from pixellm.utils.checks import check_min_score, check_score
from pixellm.utils.limits import REQUEST_SECONDS

KEY = "PIXELLM_API_KEY"  # environment variable with the API key of the server that is asked
SCHEMES = ("http://", "https://")
DETERMINED = re.compile(
    r"(?:a|an|the|all|every|each|any|some|this|that|these|those|my|your|our|his|her|its|their)\b", re.I
)
# A prompt that asks, has more than one sentence, or begins with a word that asks, orders or tells.
SENTENCE = re.compile(
    r".*[!?]$|.*[.!?] \w|(?:i|we|it|there|what|which|who|whose|where|how|why|is|are|does|do|can|could|would|will|"
    r"segment|find|show|mark|name|list|point|outline|highlight|describe|select|please|give|tell)\b",
    re.I,
)
CORRECTIONS = "/v1/corrections"
CORRECTIONS_ADVICE = " Start it with `pixellm serve --corrections DIR`."
MARGIN = 10.0  # seconds that a server may take beyond its own limit, to send its error


class RemoteSegmenter(Segmenter):
    """Ask a `pixellm serve` over HTTP.

    Args:
        url: the server's address, with or without `/v1`.
        key: one of its API keys; None: that of PIXELLM_API_KEY, or none.
        min_score: 0..1, targets with a lower confidence are left out; 0: as the server does without being told.
        timeout: seconds for an answer.

    Raises:
        ValueError: an address that is none, or a wrong `min_score`.
    """

    def __init__(
        self, url: str, key: str | None = None, min_score: float = 0.0, timeout: float = REQUEST_SECONDS + MARGIN
    ) -> None:
        if not url.startswith(SCHEMES):
            raise ValueError(f"expected the address of a pixellm server, http://HOST:PORT, got {url!r}.")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.key = key or os.environ.get(KEY)
        self.min_score = check_min_score(min_score)
        self.timeout = timeout
        self._image: tuple[Image.Image, bytes] | None = None
        self._marks: dict[str, Marks] = {}  # of targets that were refined, by their masks

    def set_image(self, image: ImageSource) -> None:
        """Encode the image that the next questions are about as PNG, which is sent with each of them.

        Raises:
            ValueError: nothing that can be read as an image.
        """
        loaded = load_image(image)
        stream = io.BytesIO()
        loaded.save(stream, "PNG", compress_level=1)  # without loss: the same masks as from a local model
        self._image = (loaded, stream.getvalue())
        self._marks = {}

    def ask(self, question: str) -> Answer:
        """Answer a question.

        Raises:
            ValueError: no image yet, no server there, or the error that it answers with.
        """
        image, file = self._current()
        return replace(self.ask_about_file(file, question), image=image)

    def ask_about_file(self, file: bytes, question: str) -> Answer:
        """Answer a question about an encoded image, which the server decodes; errors as in `ask`."""
        fields = {"image": _data_uri(file), "question": question}
        answer = self._post("/v1/segment", fields | ({"min_score": self.min_score} if self.min_score else {}))
        return Answer.from_json(answer)

    def send_correction(self, correction: Correction, file: bytes | None = None) -> dict:
        """Send a correction to /v1/corrections, for `pixellm serve --corrections`; every tool sends through this.

        The latest of an image and phrase replaces earlier ones.

        Args:
            correction: mask and provenance; `checkpoint` and `owner` are the server's to say.
            file: the encoded image, which the server decodes; None: that of `set_image`.

        Returns:
            `id`, `image` and `replaced`.

        Raises:
            ValueError: as in `ask`; the server keeps no corrections.
        """
        image = self._current()[1] if file is None else file
        return self._post(CORRECTIONS, correction.to_json() | {"image": _data_uri(image)})

    def model_name(self) -> str:
        """Return the name of the served model; a ValueError as in `ask`."""
        return self._card()["id"]

    @property
    def takes_prompts(self) -> bool:
        """Return whether the served model can `refine` targets; a ValueError as in `ask`."""
        return bool(self._card().get("takes_prompts"))

    def refine_target(self, target: Target, marks: Marks) -> Target:
        """See `refine`; the server remembers nothing: earlier marks are kept here, by the mask, and sent again."""
        _, file = self._current()
        marks = self._marks.get(str(target.rle["counts"]), Marks()).followed_by(marks)
        refined = self.refine_in_file(file, target, marks)
        self._marks[str(refined.rle["counts"])] = marks
        return refined

    def refine_in_file(self, file: bytes, target: Target | None, marks: Marks) -> Target:
        """Correct a target of an encoded image by all of its marks; errors as in `ask`.

        Args:
            file: the image, which the server decodes.
            target: with its mask before the correction; None: an empty one.
            marks: all so far.
        """
        before = {} if target is None else {"target": {"segmentation": dict(target.rle)}}
        row = self._post("/v1/refine", {"image": _data_uri(file), **before, **marks.to_json()})
        rle, score = masks.read_rle(row.get("segmentation")), check_score(row.get("score"))
        return Target("", (0, 0), rle, score) if target is None else replace(target, rle=rle, score=score)

    def _card(self) -> dict:
        return self._send(Request(f"{self.url}/v1/models"))["data"][0]

    def _current(self) -> tuple[Image.Image, bytes]:
        if self._image is None:
            raise ValueError("expected an image before the first question. Call set_image first.")
        return self._image

    def _post(self, path: str, fields: dict) -> dict:
        body = json.dumps(fields).encode()
        return self._send(Request(self.url + path, body, {"Content-Type": "application/json"}))

    def _send(self, request: Request) -> dict:
        request.add_header("Accept", "application/json")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        try:
            with urlopen(request, timeout=self.timeout) as response:
                return json.load(response)
        except HTTPError as error:
            advice = CORRECTIONS_ADVICE if error.code == 404 and request.selector == CORRECTIONS else ""
            raise ValueError(f"expected an answer of {self.url}, got {error.code}: {_message(error)}{advice}") from None
        except (URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise ValueError(
                f"expected a pixellm server at {self.url}, got: {reason}. Start one: pixellm serve"
            ) from None
        except json.JSONDecodeError:
            raise ValueError(f"expected the JSON of a pixellm server at {self.url}, got something else.") from None


def _data_uri(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode("ascii")  # the server looks at the bytes alone


def _message(error: HTTPError) -> str:
    """Return the message of a server's error; its reason where the body is not of a pixellm server."""
    try:
        return json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def connect(name: str, min_score: float = 0.0, device: str = "cpu") -> Segmenter:
    """Return a model by its name, loaded here, or the one behind a server's address (http://…).

    Args:
        name: see `pixellm.segmenter.load_segmenter`, or see `RemoteSegmenter`, whose key is that of PIXELLM_API_KEY.
        min_score: 0..1, targets with a lower confidence are left out of answers.
        device: of a model that is loaded here.

    Raises:
        ValueError: no such model, or a wrong `min_score`.
    """
    if name.startswith(SCHEMES):
        return RemoteSegmenter(name, min_score=min_score)
    from pixellm.segmenter import load_segmenter  # torch and transformers, which an address does not need

    return load_segmenter(name, device, min_score=min_score)


class PromptQuestion(NamedTuple):
    """A question, and the phrase that it asks for; "" if it is a sentence of the user's."""

    question: str
    phrase: str


def question_about(phrase: str) -> str:
    """Return the question that asks for a phrase, such as the name of a label: "cat" → "Segment the cat."."""
    words = " ".join(phrase.split()).rstrip(".")
    return f"Segment {words}." if DETERMINED.match(words) else f"Segment the {words}."


def read_prompt(prompt: str) -> list[PromptQuestion]:
    """Return the questions of a text prompt: phrases between commas are asked for one by one, a sentence as it is."""
    text = " ".join(prompt.split())
    if re.search(r"\w", text) and SENTENCE.match(text):
        return [PromptQuestion(text if text[-1] in ".!?" else f"{text}.", "")]
    phrases = [phrase.strip(" .") for phrase in text.split(",") if re.search(r"\w", phrase)]
    return [PromptQuestion(question_about(phrase), phrase) for phrase in phrases]
